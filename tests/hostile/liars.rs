//! Neighbours that lie when a node asks them for its next certificate, and withhold it.

use std::{cell::Cell, net::IpAddr, time::Duration};

use futures_util::future::join_all;
use ronproxy::internals::lab::LabNode;
use tokio::time::sleep;

use crate::{
    meters::Limits,
    peer::{Hostile, HostileLink},
    stage::Stage,
    words,
};

/// As many as a node asks in one attempt. Their names come before the honest relay's.
const LIARS: u8 = 8;

/// What they answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Lie {
    /// Bytes that are no certificate.
    Garbage,
    /// The liar's own certificate.
    OfAnotherKey,
    /// The asker's certificate that is in force.
    TheSame,
    /// "The authority has revoked this node".
    Revoked,
    /// Nothing.
    Silence,
}

impl Lie {
    fn answer(self, stage: &Stage, liar: &Hostile) -> Option<Vec<u8>> {
        let own =
            |chain: &[_]| chain.iter().map(AsRef::<[u8]>::as_ref).map(<[u8]>::to_vec).collect();
        Some(match self {
            Self::Garbage => words::renewed(vec![vec![1, 2, 3]]),
            Self::OfAnotherKey => words::renewed(own(liar.credentials().identity().chain())),
            Self::TheSame => {
                let entry = stage.lab.credentials("entry").unwrap();
                words::renewed(own(entry.identity().chain()))
            }
            Self::Revoked => words::says_revoked(),
            Self::Silence => return None,
        })
    }
}

/// Answers probes, as any neighbour does, and each request for a certificate with `answer`.
async fn tell(link: &HostileLink, answer: Option<Vec<u8>>, asked: &Cell<u64>) {
    let requests = async {
        let mut unanswered = Vec::new();
        while let Ok((mut send, mut recv)) = link.conn.accept_bi().await {
            let request = recv.read_to_end(1 << 17).await.unwrap_or_default();
            if !words::asks_for_certificate(&request) {
                continue;
            }
            asked.set(asked.get() + 1);
            match &answer {
                Some(answer) => {
                    let _ = send.write_all(answer).await;
                    let _ = send.finish();
                }
                None => unanswered.push((send, recv)),
            }
        }
    };
    tokio::join!(link.answer_probes(), requests);
}

/// An entry cut off from the authority, whose neighbours are a relay and liars. Returns how many
/// lies were told until it had its next certificate.
fn renews_despite(lie: Lie, seed: u64) -> u64 {
    // A certificate lasts five minutes.
    let stage = Stage::with_authority(2_000, seed);
    let (entry, asked) = (stage.node("entry"), Cell::new(0));
    stage.lab.internet().cut(stage.at("entry").ip(), stage.at("exit").ip());
    let liar = |number| {
        let plan = LabNode::new(&format!("liar{number}"), false, false);
        Hostile::with(&stage.lab, &plan, IpAddr::from([203, 0, 113, 80 + number]))
    };
    let liars: Vec<_> = stage.run(async { (0..LIARS).map(liar).collect() });
    let before = entry.status().certificate;
    let life_passed = || {
        let left = before.expires.saturating_sub(stage.lab.clock().now().as_secs());
        100 - 100 * left / before.lifetime_seconds
    };
    let is_liar_up = |link: &ronproxy::internals::mesh::LinkFacts| {
        link.up && link.peer.as_str().starts_with("liar")
    };
    let ((up, passed), cost) = stage.attack_alone(async {
        let links = join_all(liars.iter().map(|liar| liar.link_to(&stage.lab, "entry"))).await;
        let told = links.iter().zip(&liars);
        let lies = join_all(told.map(|(link, liar)| tell(link, lie.answer(&stage, liar), &asked)));
        let renewal = async {
            sleep(Duration::from_secs(30)).await;
            let up = entry.link_facts().iter().filter(|link| is_liar_up(link)).count();
            while entry.status().certificate.renewals == 0 && life_passed() < 95 {
                sleep(Duration::from_secs(1)).await;
            }
            up
        };
        tokio::select! { up = renewal => (up, life_passed()), _ = lies => (0, 100) }
    });
    let status = entry.status();
    let drops = status.dropped_messages.iter();
    let offences: u64 =
        drops.filter(|(name, _)| name == "bad-renewed-certificate").map(|(_, count)| count).sum();
    let (renewals, failed) = (status.certificate.renewals, status.certificate.renewals_failed);
    println!(
        "{lie:?}: {up} liars up, told {} times, {offences} counted; {renewals} renewals and {failed} \
         failed attempts after {passed} % of the certificate's life; {cost}",
        asked.get()
    );
    assert_eq!(up, usize::from(LIARS));
    assert_eq!(renewals, 1, "{lie:?}: {:?}", status.certificate);
    if matches!(lie, Lie::Garbage | Lie::OfAnotherKey) {
        assert_eq!(offences, asked.get());
    }
    cost.assert_within(Limits { peak: 24 << 20, ..Limits::default() });
    asked.get()
}

#[test]
fn neighbours_that_lie_do_not_keep_a_node_from_its_next_certificate() {
    let lies = [Lie::Garbage, Lie::OfAnotherKey, Lie::TheSame, Lie::Revoked, Lie::Silence];
    let told: u64 = (1201..).zip(lies).map(|(seed, lie)| renews_despite(lie, seed)).sum();
    assert!(told > 0, "no liar was asked");
}
