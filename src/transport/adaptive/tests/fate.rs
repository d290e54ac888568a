//! Whatever a path does, the controller's figures are sound.

use std::collections::VecDeque;

use proptest::prelude::*;

use super::{
    super::*,
    model::{MTU, PACKET},
};

/// What a path does with the packets under way after so many microseconds.
#[derive(Debug, Clone, Copy)]
enum Fate {
    Sends(u8),
    Delivers(u8),
    Loses(u8),
    /// So many rounds of so many packets, of which it loses some.
    Carries(u8, u8, u8),
    Reroutes(Option<u32>),
    Sizes(u16),
}

fn fates() -> impl Strategy<Value = Vec<(u64, Fate)>> {
    let fate = prop_oneof![
        4 => (1_u8..60).prop_map(Fate::Sends),
        4 => any::<u8>().prop_map(Fate::Delivers),
        2 => any::<u8>().prop_map(Fate::Loses),
        4 => (1_u8..20, 1_u8..60, 0_u8..4).prop_map(|(n, all, lost)| Fate::Carries(n, all, lost)),
        1 => prop::option::of(any::<u32>()).prop_map(Fate::Reroutes),
        1 => (1_200_u16..9_000).prop_map(Fate::Sizes),
    ];
    let pause = prop_oneof![Just(0), 0_u64..300, 0_u64..200_000];
    prop::collection::vec((pause, fate), 1..200)
}

/// A lane's end whose packets have a fate.
struct Fated {
    now: Instant,
    adaptive: Adaptive,
    flying: VecDeque<(u64, Instant)>,
    pn: u64,
}

impl Fated {
    fn new() -> Self {
        let now = Instant::now();
        Self { now, adaptive: Adaptive::new(now, MTU), flying: VecDeque::new(), pn: 0 }
    }

    fn send(&mut self, count: u8) {
        for _ in 0..count {
            self.adaptive.on_packet_sent(self.now, MTU, self.pn);
            self.flying.push_back((self.pn, self.now));
            self.pn += 1;
        }
    }

    fn deliver(&mut self, count: u8) {
        let some = self.flying.len().min(count.into());
        for (pn, sent) in self.flying.drain(..some) {
            self.adaptive.acked(self.now, sent, PACKET, pn, count.is_multiple_of(8));
        }
        let in_flight = self.flying.len() as u64 * PACKET;
        self.adaptive.on_end_acks(self.now, in_flight, false, self.pn.checked_sub(1));
    }

    fn lose(&mut self, count: u8) {
        let some = self.flying.len().min(count.into());
        for (pn, _) in self.flying.drain(..some) {
            self.adaptive.on_packet_lost(MTU, pn, self.now);
        }
    }

    fn meet(&mut self, us: u64, fate: Fate) {
        self.now += Duration::from_micros(us);
        match fate {
            Fate::Sends(count) => self.send(count),
            Fate::Delivers(count) => self.deliver(count),
            Fate::Loses(count) => self.lose(count),
            Fate::Carries(rounds, packets, lost) => {
                for round in 0..rounds {
                    self.send(packets);
                    self.now += Duration::from_micros(us + u64::from(round) * us / 16);
                    self.lose(lost);
                    self.deliver(u8::MAX);
                }
            }
            Fate::Reroutes(rate) => {
                let rtt = Duration::from_millis(50);
                let carried = rate.map(|rate| Carried { rate: rate.into(), rtt });
                self.adaptive.rerouted(self.now, carried);
            }
            Fate::Sizes(mtu) => self.adaptive.on_mtu_update(mtu),
        }
    }
}

proptest! {
    #[test]
    fn whatever_a_path_does_the_window_and_the_pace_are_numbers(fates in fates()) {
        let mut end = Fated::new();
        for (us, fate) in fates {
            end.meet(us, fate);
            let least = LEAST_WINDOW * u64::from(end.adaptive.path.mtu());
            let (window, pace) = (end.adaptive.window(), end.adaptive.pacing_rate(0));
            prop_assert!((least..1 << 40).contains(&window), "{window}");
            prop_assert!((0.0..1e13).contains(&pace.unwrap_or_default()), "{pace:?}");
        }
    }
}
