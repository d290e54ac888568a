//! Tests of the label table, among them one against a plain model of it.

use proptest::prelude::*;

use super::*;
use crate::underlay::Neighbour;

const MINUTE: Duration = Duration::from_secs(60);

fn name(text: &str) -> NodeName {
    text.parse().unwrap()
}

fn toward(node: &str) -> NextHop {
    NextHop { neighbour: Arc::new(Neighbour::new(name(node), None)), label: Label(99) }
}

fn forwarding(holder: &str, destination: &str) -> Forwarding {
    Forwarding::new(name(holder), toward(destination), MINUTE)
}

/// Grants `count` labels from `first` on; returns the first refusal.
fn grant_many(
    table: &mut LabelTable,
    now: Instant,
    (first, count): (u64, usize),
    forwarding: &Forwarding,
) -> Option<GrantError> {
    let labels = (first..).take(count).map(Label);
    labels.map(|label| table.grant_forward(now, label, forwarding.clone()).err()).find_map(|e| e)
}

#[test]
fn a_forwarding_label_works_until_it_expires_and_longer_if_renewed() {
    let (mut table, t0) = (LabelTable::default(), Instant::now());
    table.grant_forward(t0, Label(1), forwarding("aros", "mit")).unwrap();
    assert!(matches!(table.lookup(t0, Label(1), 100), Ok(LabelMeaning::Forward(_))));
    assert!(table.renew(t0 + MINUTE / 2, Label(1), &name("aros"), MINUTE));
    table.sweep(t0 + MINUTE);
    assert!(table.lookup(t0 + MINUTE, Label(1), 100).is_ok());
    let late = t0 + 2 * MINUTE;
    assert_eq!(table.lookup(late, Label(1), 100).unwrap_err(), DropReason::UnknownLabel);
    assert!(!table.renew(late, Label(1), &name("aros"), MINUTE));
}

#[test]
fn a_relayed_packet_is_not_forwarded_under_any_label() {
    let (mut table, t0) = (LabelTable::default(), Instant::now());
    table.grant_forward(t0, Label(1), forwarding("aros", "mit")).unwrap();
    table.grant_slot(Label(2), &name("aros"), SlotId(2)).unwrap();
    assert_eq!(table.lookup_relayed(t0, Label(1)).unwrap_err(), DropReason::ForwardedTwice);
    assert!(matches!(table.lookup_relayed(t0, Label(2)), Ok(LabelMeaning::Slot(SlotId(2)))));
    assert_eq!(table.lookup_relayed(t0, Label(3)).unwrap_err(), DropReason::UnknownLabel);
}

#[test]
fn only_the_holder_of_a_slots_label_hears_that_the_lane_is_known() {
    let (mut table, t0) = (LabelTable::default(), Instant::now());
    table.grant_slot(Label(1), &name("aros"), SlotId(1)).unwrap();
    assert!(table.renew(t0, Label(1), &name("aros"), MINUTE));
    assert!(!table.renew(t0, Label(1), &name("eve"), MINUTE));
    table.withdraw_slot(SlotId(1));
    assert!(!table.renew(t0, Label(1), &name("aros"), MINUTE));
}

#[test]
fn only_the_holder_renews() {
    let (mut table, t0) = (LabelTable::default(), Instant::now());
    table.grant_forward(t0, Label(1), forwarding("aros", "mit")).unwrap();
    assert!(!table.renew(t0, Label(1), &name("eve"), MINUTE));
}

#[test]
fn a_holder_that_asks_without_end_harms_only_itself() {
    let (mut table, t0) = (LabelTable::default(), Instant::now());
    for (i, destination) in ["mit", "utah", "nyu", "ucsd"].into_iter().enumerate() {
        let labels = ((i * MAX_PER_PAIR) as u64, MAX_PER_PAIR);
        assert_eq!(grant_many(&mut table, t0, labels, &forwarding("eve", destination)), None);
    }
    let more = table.grant_forward(t0, Label(9999), forwarding("eve", "korea"));
    assert_eq!(more, Err(GrantError::PayerFull));
    table.grant_forward(t0, Label(9999), forwarding("aros", "mit")).unwrap();
    table
        .grant_forward(t0 + MINUTE, Label(1), forwarding("eve", "mit"))
        .expect("expired grants make room");
}

#[test]
fn one_member_cannot_use_up_an_exits_share_of_labels() {
    let (mut table, t0) = (LabelTable::default(), Instant::now());
    let for_eve = Forwarding { payer: name("eve"), ..forwarding("exit", "eve") };
    let refused = grant_many(&mut table, t0, (0, MAX_PER_PAIR + 1), &for_eve);
    assert_eq!(refused, Some(GrantError::PairFull));
    let for_aros = Forwarding { payer: name("aros"), ..forwarding("exit", "aros") };
    assert_eq!(grant_many(&mut table, t0, (1000, MAX_PER_PAIR), &for_aros), None);
    assert_eq!(grant_many(&mut table, t0, (2000, MAX_PER_PAIR), &forwarding("exit", "mit")), None);
    assert_eq!(table.held_by(&name("exit")), 3 * MAX_PER_PAIR);
}

#[test]
fn the_table_never_grows_past_its_cap_and_lanes_still_get_labels() {
    let (mut table, t0) = (LabelTable::default(), Instant::now());
    for i in 0..(MAX_LABELS / MAX_PER_PAIR) as u64 {
        // Four destinations for each holder.
        let of = forwarding(&format!("n{}", i / 4), &format!("d{}", i % 4));
        assert_eq!(grant_many(&mut table, t0, (i << 32, MAX_PER_PAIR), &of), None);
    }
    let more = table.grant_forward(t0, Label(u64::MAX), forwarding("aros", "mit"));
    assert_eq!((more, table.len()), (Err(GrantError::TableFull), MAX_LABELS));
    table.grant_slot(Label(u64::MAX), &name("aros"), SlotId(1)).unwrap();
    table.sweep(t0 + MINUTE);
    assert_eq!((table.len(), table.counts.len(), table.expiring.len()), (1, 0, 0));
}

#[test]
fn a_label_in_use_is_not_granted_twice() {
    let (mut table, t0) = (LabelTable::default(), Instant::now());
    table.grant_slot(Label(1), &name("aros"), SlotId(1)).unwrap();
    assert_eq!(table.grant_slot(Label(1), &name("aros"), SlotId(2)), Err(GrantError::InUse));
    let again = table.grant_forward(t0, Label(1), forwarding("aros", "mit"));
    assert_eq!(again, Err(GrantError::InUse));
}

#[test]
fn closing_a_slot_withdraws_its_labels_only() {
    let (mut table, t0) = (LabelTable::default(), Instant::now());
    table.grant_slot(Label(1), &name("aros"), SlotId(1)).unwrap();
    table.grant_slot(Label(2), &name("aros"), SlotId(2)).unwrap();
    table.withdraw_slot(SlotId(1));
    assert!(table.lookup(t0, Label(1), 1).is_err());
    assert!(table.lookup(t0, Label(2), 1).is_ok());
}

#[test]
fn a_revoked_node_loses_the_labels_it_holds_and_those_that_lead_to_it() {
    let (mut table, t0) = (LabelTable::default(), Instant::now());
    table.grant_forward(t0, Label(1), forwarding("eve", "mit")).unwrap();
    table.grant_forward(t0, Label(2), forwarding("mit", "eve")).unwrap();
    table.grant_forward(t0, Label(3), forwarding("aros", "mit")).unwrap();
    assert_eq!(table.withdraw_holder(&name("eve")), 2);
    for (label, known) in [(1, false), (2, false), (3, true)] {
        assert_eq!(table.lookup(t0, Label(label), 1).is_ok(), known, "label {label}");
    }
    assert!(!table.renew(t0, Label(1), &name("eve"), MINUTE));
    assert_eq!(table.held_by(&name("eve")), 0);
}

#[test]
fn forwarded_bytes_are_counted_by_both_ends_while_a_label_is_held() {
    let (mut table, t0) = (LabelTable::default(), Instant::now());
    for (label, holder, to) in [(1, "aros", "mit"), (2, "aros", "mit"), (3, "mit", "aros")] {
        let forwarding = forwarding(holder, to);
        table.grant_forward(t0, Label(label), forwarding).unwrap();
    }
    for (label, bytes) in [(1, 100), (2, 1000), (3, 7)] {
        table.lookup(t0, Label(label), bytes).unwrap();
    }
    let told = |table: &LabelTable| {
        let relayed = table.relayed().into_iter();
        relayed.map(|it| (it.from.to_string(), it.labels, it.bytes)).collect::<Vec<_>>()
    };
    assert_eq!(told(&table), [("aros".to_owned(), 2, 1100), ("mit".to_owned(), 1, 7)]);
    table.withdraw_holder(&name("mit"));
    assert!(told(&table).is_empty() && table.carried.is_empty());
}

#[test]
fn a_meter_holds_a_holder_to_its_rate() {
    let t0 = Instant::now();
    let meter = Meter::new(1_000_000);
    let admitted =
        (0..10_000u64).filter(|i| meter.admit(t0 + Duration::from_micros(i * 500), 1400)).count();
    // 5 s at 1 MB/s plus the burst of 250 ms, in packets of 1400 bytes.
    assert!((3_700..=3_760).contains(&admitted), "{admitted}");
}

/// One operation on the table, in small ranges so that they meet.
#[derive(Debug, Clone)]
enum Step {
    Forward { label: u64, holder: u8, destination: u8, payer: u8, seconds: u64 },
    Slot { label: u64, slot: u32 },
    Renew { label: u64, holder: u8, seconds: u64 },
    CloseSlot(u32),
    Withdraw(u8),
    Sweep,
    Wait(u64),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0..12u64, 0..3u8, 0..3u8, 0..3u8, 1..100u64).prop_map(
            |(label, holder, destination, payer, seconds)| Step::Forward {
                label, holder, destination, payer, seconds
            }
        ),
        2 => (0..12u64, 0..4u32).prop_map(|(label, slot)| Step::Slot { label, slot }),
        3 => (0..12u64, 0..3u8, 1..100u64)
            .prop_map(|(label, holder, seconds)| Step::Renew { label, holder, seconds }),
        1 => (0..4u32).prop_map(Step::CloseSlot),
        1 => (0..3u8).prop_map(Step::Withdraw),
        1 => Just(Step::Sweep),
        2 => (0..60u64).prop_map(Step::Wait),
    ]
}

/// A label as the model has it: the slot, or holder, destination, payer and second of expiry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Known {
    Slot(u32),
    Forward(u8, u8, u8, u64),
}

fn node(number: u8) -> NodeName {
    name(&format!("n{number}"))
}

fn apply(table: &mut LabelTable, known: &mut HashMap<u64, Known>, now: (Instant, u64), step: Step) {
    let (now, second) = now;
    let live = |known: &Known| !matches!(known, Known::Forward(.., end) if *end <= second);
    match step {
        Step::Forward { label, holder, destination, payer, seconds } => {
            known.retain(|_, known| live(known));
            let next = toward(node(destination).as_str());
            let lifetime = Duration::from_secs(seconds);
            let base = Forwarding::new(node(holder), next, lifetime);
            let forwarding = Forwarding { payer: node(payer), ..base };
            let granted = table.grant_forward(now, Label(label), forwarding).is_ok();
            assert_eq!(granted, !known.contains_key(&label));
            let end = second + seconds;
            known.entry(label).or_insert(Known::Forward(holder, destination, payer, end));
        }
        Step::Slot { label, slot } => {
            // Only a sweep makes the label of an expired grant free for a slot.
            table.sweep(now);
            known.retain(|_, known| live(known));
            let granted = table.grant_slot(Label(label), &name("aros"), SlotId(slot)).is_ok();
            assert_eq!(granted, !known.contains_key(&label));
            if granted {
                known.retain(|_, known| *known != Known::Slot(slot));
                known.insert(label, Known::Slot(slot));
            }
        }
        Step::Renew { label, holder, seconds } => {
            let lifetime = Duration::from_secs(seconds);
            let renewed = table.renew(now, Label(label), &node(holder), lifetime);
            let held = known.get_mut(&label).filter(|known| {
                matches!(known, Known::Forward(by, ..) if *by == holder) && live(known)
            });
            assert_eq!(renewed, held.is_some());
            if let Some(Known::Forward(.., end)) = held {
                *end = (*end).max(second + seconds);
            }
        }
        Step::CloseSlot(slot) => {
            table.withdraw_slot(SlotId(slot));
            known.retain(|_, known| *known != Known::Slot(slot));
        }
        Step::Withdraw(gone) => {
            table.withdraw_holder(&node(gone));
            known.retain(|_, known| match known {
                Known::Slot(_) => true,
                Known::Forward(holder, to, ..) => *holder != gone && *to != gone,
            });
        }
        Step::Sweep => table.sweep(now),
        Step::Wait(_) => {}
    }
}

proptest! {
    #[test]
    fn the_table_is_what_a_plain_model_of_it_says(
        steps in prop::collection::vec(step(), 1..120),
    ) {
        let (mut table, t0, mut second) = (LabelTable::default(), Instant::now(), 0);
        let mut known = HashMap::new();
        for step in steps {
            if let Step::Wait(seconds) = step {
                second += seconds;
            }
            let now = t0 + Duration::from_secs(second);
            apply(&mut table, &mut known, (now, second), step);
            for label in 0..12 {
                let expected = match known.get(&label) {
                    Some(Known::Slot(_)) => (true, true),
                    Some(Known::Forward(.., end)) => (*end > second, false),
                    None => (false, false),
                };
                let found = (
                    table.lookup(now, Label(label), 1).is_ok(),
                    table.lookup_relayed(now, Label(label)).is_ok(),
                );
                prop_assert_eq!(found, expected, "label {}", label);
            }
            // After a sweep the counts are those of the live labels.
            table.sweep(now);
            known.retain(|_, known| !matches!(known, Known::Forward(.., end) if *end <= second));
            prop_assert_eq!(table.len(), known.len());
            for number in 0..3 {
                let count = |is: &dyn Fn(u8, u8, u8) -> bool| known.values().filter(|known| {
                    matches!(**known, Known::Forward(h, d, p, _) if is(h, d, p))
                }).count();
                prop_assert_eq!(table.held_by(&node(number)), count(&|h, _, _| h == number));
                let paid = table.count(&Account::Payer(node(number)));
                prop_assert_eq!(paid, count(&|_, _, p| p == number));
                for to in 0..3 {
                    let pair = table.count(&Account::Pair(node(number), node(to)));
                    prop_assert_eq!(pair, count(&|h, d, _| h == number && d == to));
                }
            }
        }
    }
}
