use super::*;

fn info(name: &str, port: u16) -> MemberInfo {
    let addresses = vec![([127, 0, 0, 1], port).into()];
    MemberInfo { name: name.parse().unwrap(), addresses, roles: Roles::default() }
}

fn members(us: &str) -> Members {
    Members::new(us.parse().unwrap())
}

#[test]
fn a_new_member_is_dialled_at_once_by_the_smaller_name_and_later_by_the_larger() {
    let t0 = Instant::now();
    let (mut a, mut z) = (members("a"), members("z"));
    a.learn(t0, &info("m", 1));
    z.learn(t0, &info("m", 1));
    assert_eq!(a.due(t0).len(), 1);
    assert_eq!(z.due(t0).len(), 0);
    assert_eq!(z.due(t0 + POLITENESS).len(), 1);
}

#[test]
fn a_node_that_starts_again_dials_all_it_remembers_at_once() {
    let (mut z, t0) = (members("z"), Instant::now());
    z.remember(t0, &[info("a", 1), info("m", 1)]);
    assert_eq!(z.due(t0).len(), 2);
}

#[test]
fn failures_back_off_and_a_new_address_is_tried_at_once() {
    let mut t = Instant::now();
    let mut a = members("a");
    a.learn(t, &info("m", 1));
    let name = "m".parse().unwrap();
    for _ in 0..10 {
        t += LONGEST_PAUSE;
        assert_eq!(a.due(t).len(), 1);
        a.dial_failed(t, &name);
        assert!(a.due(t).is_empty());
    }
    assert!(a.learn(t, &info("m", 2)));
    assert_eq!(a.due(t), [(name, vec![([127, 0, 0, 1], 1).into(), ([127, 0, 0, 1], 2).into()])]);
}

#[test]
fn a_node_never_learns_of_itself() {
    let mut a = members("a");
    assert!(!a.learn(Instant::now(), &info("a", 1)));
    assert!(a.names().is_empty());
}

#[test]
fn hearsay_without_end_fills_no_more_than_the_cap() {
    let mut a = members("a");
    let now = Instant::now();
    for i in 0..2 * MAX_MEMBERS {
        a.learn(now, &info(&format!("n{i}"), 1));
    }
    for port in 1..100 {
        a.learn(now, &info("n1", port));
    }
    assert_eq!(a.names().len(), MAX_MEMBERS);
    let addresses = |m: &MemberInfo| m.addresses.len();
    assert_eq!(a.all().iter().map(addresses).max(), Some(MAX_ADDRESSES));
}

#[test]
fn hearsay_does_not_touch_a_linked_member() {
    let mut a = members("a");
    let now = Instant::now();
    a.linked(now, info("m", 7), None);
    assert!(!a.learn(now, &info("m", 666)));
    assert_eq!(a.tell(info("a", 1), now)[1], info("m", 7));
}

#[test]
fn a_member_that_left_is_told_to_nobody_after_a_day_and_forgotten() {
    let (mut a, mut b) = (members("a"), members("b"));
    let start = Instant::now();
    a.linked(start, info("m", 7), None);
    a.unlinked(start, &"m".parse().unwrap());
    // The two remind each other as often as they can.
    let mut now = start;
    while now < start + FORGET_AFTER * 2 + Duration::from_secs(7200) {
        now += Duration::from_secs(3600);
        a.due(now);
        b.due(now);
        for told in a.tell(info("a", 1), now) {
            b.learn(now, &told);
        }
        for told in b.tell(info("b", 1), now) {
            a.learn(now, &told);
        }
        let a_day = now < start + FORGET_AFTER;
        assert_eq!(a.tell(info("a", 1), now).len() > 1, a_day);
    }
    assert_eq!((a.names().len(), b.names().len()), (1, 1), "they know each other alone");
}

#[test]
fn a_member_whose_path_is_down_is_dialled_beside_its_link() {
    let (mut a, now, name) = (members("a"), Instant::now(), "m".parse().unwrap());
    a.linked(now, info("m", 7), None);
    assert!(a.due(now).is_empty());
    a.path_down(now, &name);
    assert!(a.is_path_down(&name));
    assert_eq!(a.due(now).len(), 1);
    a.path_up(&name);
    assert!(a.due(now + LONGEST_PAUSE * 2).is_empty());
}

#[test]
fn a_linked_member_is_never_forgotten() {
    let mut a = members("a");
    let start = Instant::now();
    a.linked(start, info("m", 7), None);
    a.due(start + FORGET_AFTER * 30);
    assert_eq!(a.names().len(), 1);
}

#[test]
fn two_members_that_both_moved_hear_of_each_other_through_a_third() {
    let (mut alice, mut north) = (members("alice"), members("north"));
    let (now, bob) = (Instant::now(), "bob".parse().unwrap());
    for directory in [&mut alice, &mut north] {
        directory.linked(now, info("bob", 1), Some(([127, 0, 0, 1], 1).into()));
    }
    // The link to alice died with the move; that to north lived on.
    alice.path_down(now, &bob);
    alice.due(now);
    let address: SocketAddr = ([127, 0, 0, 1], 2).into();
    north.moved(&bob, address);
    let told = north.tell(info("north", 9), now);
    for member in &told {
        alice.learn(now, member);
    }
    let due = alice.due(now);
    assert!(due.iter().any(|(name, at)| *name == bob && at.contains(&address)), "{due:?}");
}
