//! Requests for lanes and for forwarding: who may ask, and whose budget pays.
//!
//! A request for a lane is signed by its entry, so neither a neighbour that passes it on nor an exit
//! that shows it to a relay can ask in another node's name. An exit answers each request once. A
//! request that its entry signed is charged to the entry, any other to the neighbour that brought it.

use std::{
    collections::BTreeMap,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use rustls::pki_types::CertificateDer;
use tokio::time::Instant;

use super::{
    Mesh,
    relay::GRANT_LIFETIME,
    requests::{Requests, TOLERATED, number},
};
use crate::{
    chance::Chance,
    identity::{NodeName, Peer, StatementKey},
    lane::LaneHost,
    link::{Conduct, Link, LinkDrop, LinkError, Offence},
    overlay::linkstate::MAX_NODES,
    underlay::{NextHop, labels::Forwarding},
    wire::{
        label::Label,
        link::{
            ForwardRequest, LaneAsker, LaneRequest, LinkRefusal, OpenLane, Reply, Request,
            RequestFault, SignedLaneRequest,
        },
    },
};

/// Labels that one renewal may name: more than a neighbour may hold.
const MAX_RENEWED: usize = crate::underlay::labels::MAX_PER_PAYER;

/// The state of requests for lanes, own ones and those of others.
#[derive(Default)]
pub(super) struct LaneRequests {
    /// The number of the last request of our own.
    issued: AtomicU64,
    answered: Mutex<Requests>,
    /// The incarnations of exits that told us over a relay. They are members.
    exits: Mutex<BTreeMap<NodeName, u64>>,
}

impl LaneRequests {
    /// A number for an own request at `now`, greater than the last one. It starts at a random value
    /// within the second, because an earlier process may have started in the same second.
    ///
    /// If this node's clock has been set back by much, numbers begin anew: exits would refuse greater
    /// ones until their clocks show that time. Half of what they tolerate, as their clocks differ, too.
    fn next(&self, now: u64, chance: &Chance) -> u64 {
        let first = number(now, chance.draw::<u32>() >> 13);
        let next = |last: u64| match last >> 20 {
            at if (now..=now + TOLERATED / 2).contains(&at) => last + 1,
            _ => first,
        };
        let before =
            self.issued.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |last| Some(next(last)));
        next(before.unwrap_or_else(|last| last))
    }

    fn exits(&self) -> MutexGuard<'_, BTreeMap<NodeName, u64>> {
        self.exits.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Remembers what an exit says of itself. A relay that lies costs a round trip.
    fn learn(&self, exit: &NodeName, incarnation: u64) {
        let mut exits = self.exits();
        if exits.len() >= MAX_NODES && !exits.contains_key(exit) {
            exits.clear();
        }
        exits.insert(exit.clone(), incarnation);
    }
}

impl Mesh {
    /// This node's request for a lane to `exit`.
    pub(super) fn lane_request(
        &self,
        exit: &NodeName,
        open: OpenLane,
    ) -> Result<SignedLaneRequest, LinkRefusal> {
        let issued =
            self.lane_requests.next(self.credentials.now().as_secs(), self.switch.chance());
        let entry = self.us.name.clone();
        let incarnation = self.lane_requests.exits().get(exit).copied();
        let incarnation = incarnation.or_else(|| self.links.incarnation(exit)).unwrap_or(0);
        let request = LaneRequest { entry, exit: exit.clone(), issued, incarnation, open };
        let signature = self.credentials.sign(&request.statement()).map_err(|error| {
            tracing::error!(%error, "a request for a lane could not be signed");
            LinkRefusal::Unproved(RequestFault::Signature)
        })?;
        Ok(SignedLaneRequest { request, signature })
    }

    /// Whether a request that was refused is worth another one, and takes note of what the exit said.
    pub(super) fn may_ask_again(&self, exit: &NodeName, refused: RequestFault) -> bool {
        match refused {
            // The link was replaced before the answer came, and the request asked again over the new
            // one: the exit has answered that one already.
            RequestFault::Replayed => true,
            RequestFault::OtherIncarnation(present) => {
                self.lane_requests.learn(exit, present);
                true
            }
            _ => false,
        }
    }

    /// Answers a request for a lane that its entry brought over its own link.
    pub(super) async fn grant_lane(
        &self,
        link: &Link,
        signed: SignedLaneRequest,
    ) -> Result<Reply, LinkRefusal> {
        let (us, host) = (&self.us.name, self.hosting()?);
        self.admit_check(link)?;
        let checked = (|| {
            concerns(signed.request.entry == link.peer().name && signed.request.exit == *us)?;
            check_signature(link, &signed)?;
            self.admit_once(link.peer(), &signed)
        })();
        checked.map_err(|fault| refused(link, fault))?;
        if signed.request.open.route.relay().is_some() {
            // A relay is asked on its behalf.
            self.take_passing(link.conduct())?;
        }
        Ok(Reply::LaneOpened { label: host.grant(signed).await? })
    }

    /// Answers a request for a lane that a relay brought.
    pub(super) async fn grant_passed_on(
        &self,
        link: &Link,
        signed: SignedLaneRequest,
        certificate: Vec<u8>,
    ) -> Result<Reply, LinkRefusal> {
        if !self.attestations.newest_of(link.peer()).roles.relay {
            return Err(LinkRefusal::Unexpected);
        }
        let host = self.hosting()?;
        let now = Instant::now().into_std();
        let may = link.conduct().with_budget(|budget| budget.may_pass_on(now));
        may.then_some(()).ok_or_else(|| refused(link, RequestFault::TooFast))?;
        self.admit_check(link)?;
        let entry = self.check_passed_on(&signed, certificate).map_err(|fault| {
            if is_relays_fault(fault) {
                link.conduct().with_budget(|budget| budget.take_passing(now));
            }
            refused(link, fault)
        })?;
        // From here on the entry pays: a relay cannot know how much its neighbours ask of others.
        self.take_passing(&self.links.conduct(&entry))?;
        Ok(Reply::LaneOpened { label: host.grant(signed).await? })
    }

    /// The member that asks this process for a lane, if it does so for the first time.
    fn check_passed_on(
        &self,
        signed: &SignedLaneRequest,
        certificate: Vec<u8>,
    ) -> Result<Peer, RequestFault> {
        concerns(signed.request.exit == self.us.name)?;
        let certificate = CertificateDer::from(certificate);
        let member = self.credentials.member(&certificate, self.credentials.now());
        let entry = member.map_err(|_| RequestFault::Certificate)?;
        if entry.name != signed.request.entry {
            return Err(RequestFault::Certificate);
        }
        check_by(&certificate, signed)?;
        let present = self.incarnation;
        (signed.request.incarnation == present)
            .then_some(())
            .ok_or(RequestFault::OtherIncarnation(present))?;
        self.admit_once(&entry, signed)?;
        Ok(entry)
    }

    /// The lanes that end here, if this node is an exit now.
    pub(super) fn hosting(&self) -> Result<&LaneHost, LinkRefusal> {
        let host = self.host.get().filter(|_| self.exit);
        host.map(|host| &**host).ok_or_else(|| LinkRefusal::NotMyRole("exit".into()))
    }

    fn admit_once(&self, entry: &Peer, signed: &SignedLaneRequest) -> Result<(), RequestFault> {
        let mut answered =
            self.lane_requests.answered.lock().unwrap_or_else(PoisonError::into_inner);
        answered.admit(self.credentials.now().as_secs(), &entry.key, signed.request.issued)
    }

    /// Passes a neighbour's own request on to an exit to which it has no link.
    pub(super) async fn pass_on(
        &self,
        link: &Link,
        signed: SignedLaneRequest,
    ) -> Result<Reply, LinkRefusal> {
        self.relay.must_be_relay()?;
        self.take_passing(link.conduct())?;
        self.admit_check(link)?;
        let checked = concerns(signed.request.entry == link.peer().name)
            .and_then(|()| check_signature(link, &signed));
        checked.map_err(|fault| refused(link, fault))?;
        let exit = signed.request.exit.clone();
        let certificate = self.attestations.certificate(link.peer()).or_else(|| link.certificate());
        let certificate = certificate.map(|der| der.to_vec()).unwrap_or_default();
        let onward = Request::PassedOn { request: signed, certificate };
        match self.links.request(&exit, &onward).await {
            Ok(reply) => Ok(reply),
            Err(LinkError::Refused(refusal)) => Err(refusal),
            Err(_) => Err(LinkRefusal::NoLink(exit)),
        }
    }

    /// Takes one request that is passed on from a member's budget.
    fn take_passing(&self, conduct: &Conduct) -> Result<(), LinkRefusal> {
        let now = Instant::now().into_std();
        if conduct.with_budget(|budget| budget.take_passing(now)) {
            return Ok(());
        }
        conduct.dropped(now, LinkDrop::LaneRequest(RequestFault::TooFast));
        Err(LinkRefusal::Unproved(RequestFault::TooFast))
    }

    fn admit_check(&self, link: &Link) -> Result<(), LinkRefusal> {
        self.may_check(link).then_some(()).ok_or(LinkRefusal::Unproved(RequestFault::TooFast))
    }

    /// Grants a neighbour a label under which we forward for it, if our rules allow it. The rules
    /// check the certified groups of the lane's entry. The entry is the neighbour itself, unless
    /// the neighbour proves that it is the exit of a lane of the other node.
    pub(super) fn grant_forwarding(
        &self,
        link: &Link,
        request: ForwardRequest,
    ) -> Result<Reply, LinkRefusal> {
        self.relay.must_be_relay()?;
        let toward = self.links.get(&request.toward);
        let toward = toward.ok_or(LinkRefusal::NoLink(request.toward))?;
        let holder = &link.peer().name;
        let (payer, class) = match request.asker {
            LaneAsker::Entry { class } => (holder.clone(), class),
            LaneAsker::Exit(signed) => {
                // The exit asks because an entry asked it, so too many are no offence of the exit's.
                let may = link.conduct().take_check(Instant::now().into_std());
                may.then_some(()).ok_or_else(|| refused(link, RequestFault::TooFast))?;
                let LaneRequest { entry, exit, open, .. } = &signed.request;
                let same = *exit == *holder
                    && *entry == toward.peer().name
                    && open.reply_label == request.label;
                concerns(same)
                    .and_then(|()| check_signature(&toward, &signed))
                    .map_err(|fault| refused(link, fault))?;
                (entry.clone(), signed.request.open.wish.class)
            }
        };
        let next = NextHop { neighbour: toward.neighbour().clone(), label: request.label };
        let plain = Forwarding::new(holder.clone(), next, GRANT_LIFETIME);
        let forwarding = Forwarding { payer, class, ..plain };
        self.judge(&forwarding, [link, &toward].map(Link::peer))?;
        self.relay.grant(Instant::now().into_std(), forwarding, &self.switch)
    }

    /// Checks forwarding between two neighbours against this node's rules.
    fn judge(&self, forwarding: &Forwarding, ends: [&Peer; 2]) -> Result<(), LinkRefusal> {
        let [entry, exit] = match ends {
            [one, other] if one.name == forwarding.payer => [one, other],
            [one, other] => [other, one],
        };
        // A certificate that was renewed since may name other groups.
        let groups = self.attestations.newest_of(entry).groups;
        self.routing()
            .admits(&groups, forwarding.class.as_deref(), &entry.name, &exit.name)
            .map_err(|rule| LinkRefusal::Policy(rule.to_string()))
    }

    /// Extends the labels that a neighbour holds, as far as our rules still allow them.
    pub(super) fn renew_labels(&self, link: &Link, labels: &[Label]) -> Reply {
        let now = Instant::now().into_std();
        let holder = link.peer();
        let renewed = labels.iter().take(MAX_RENEWED).map(|label| {
            let held = self.switch.with_labels(|table| table.forwarding(now, *label).cloned());
            let admitted = held.is_none_or(|held| {
                // Without a link to the other end, its known groups stay.
                let toward = self.links.get(held.next.neighbour.name());
                toward.is_none_or(|toward| self.judge(&held, [holder, toward.peer()]).is_ok())
            });
            admitted
                && self
                    .switch
                    .with_labels(|table| table.renew(now, *label, &holder.name, GRANT_LIFETIME))
        });
        Reply::Renewed(renewed.collect())
    }
}

/// Counts a refused request. It charges the neighbour that brought it, if an honest node would not
/// have sent it.
fn refused(link: &Link, fault: RequestFault) -> LinkRefusal {
    let drop = LinkDrop::LaneRequest(fault);
    match fault {
        RequestFault::Signature | RequestFault::OtherLane => link.offended(drop, Offence::Forged),
        // An honest node may have a wrong clock, a link that was replaced during the request, or an
        // older revocation list; and this node may have restarted.
        RequestFault::Certificate
        | RequestFault::Clock
        | RequestFault::Replayed
        | RequestFault::TooMany
        | RequestFault::OtherIncarnation(_)
        | RequestFault::TooFast => link.conduct().dropped(Instant::now().into_std(), drop),
    }
    LinkRefusal::Unproved(fault)
}

/// Whether a relay that checks what it passes on would not have passed this on. A request that was seen before
/// may have come another way first.
fn is_relays_fault(fault: RequestFault) -> bool {
    match fault {
        RequestFault::Signature | RequestFault::OtherLane | RequestFault::Certificate => true,
        RequestFault::Clock
        | RequestFault::Replayed
        | RequestFault::TooMany
        | RequestFault::OtherIncarnation(_)
        | RequestFault::TooFast => false,
    }
}

fn concerns(concerned: bool) -> Result<(), RequestFault> {
    concerned.then_some(()).ok_or(RequestFault::OtherLane)
}

/// Whether the neighbour at the other end of `link` signed the request. Its link ends with its
/// membership, and a renewed certificate is of the same key.
fn check_signature(link: &Link, signed: &SignedLaneRequest) -> Result<(), RequestFault> {
    let certificate = link.certificate().ok_or(RequestFault::Certificate)?;
    check_by(&certificate, signed)
}

fn check_by(
    certificate: &CertificateDer<'_>,
    signed: &SignedLaneRequest,
) -> Result<(), RequestFault> {
    let key = StatementKey::of(certificate).map_err(|_| RequestFault::Certificate)?;
    let checked = key.check(&signed.request.statement(), &signed.signature);
    checked.map_err(|_| RequestFault::Signature)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_request_has_a_greater_number_than_the_one_before() {
        let (requests, mut last) = (LaneRequests::default(), 0);
        for now in [1_893_456_000, 1_893_456_000, 1_893_456_001, 1_893_456_000, 1_893_456_007] {
            let next = requests.next(now, &Chance::default());
            assert!(next > last, "{next} after {last}");
            assert!((next >> 20).abs_diff(now) <= 1, "{next} at {now}");
            last = next;
        }
    }

    #[test]
    fn numbers_begin_anew_when_the_clock_is_set_back_by_much() {
        let (requests, chance, now) = (LaneRequests::default(), Chance::default(), 1_893_456_000);
        let ahead = requests.next(now + 24 * 3600, &chance);
        let right = requests.next(now, &chance);
        assert_eq!((right >> 20, right < ahead), (now, true));
        assert!(requests.next(now, &chance) > right);
        assert!(requests.next(now - 600, &chance) > right, "a small step needs no new beginning");
    }

    #[test]
    fn the_incarnations_of_exits_are_bounded_by_the_number_of_members() {
        let requests = LaneRequests::default();
        for number in 0..2 * MAX_NODES {
            requests.learn(&format!("n{number}").parse().unwrap(), 7);
            assert!(requests.exits().len() <= MAX_NODES);
        }
    }
}
