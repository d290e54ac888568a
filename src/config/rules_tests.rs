//! Tests of the routing rules.

use super::*;

#[derive(Deserialize)]
struct File {
    rule: Rules,
}

fn read(text: &str) -> Result<Rules, String> {
    toml::from_str::<File>(text).map(|file| file.rule).map_err(|error| error.message().to_owned())
}

/// Reads one rule with these match keys.
fn matches(keys: &str, target: &str, user: Option<&str>, client: &str) -> bool {
    let rules = read(&format!("[[rule]]\n{keys}\nreject = true")).unwrap();
    let choice =
        rules.choose(&target.parse().unwrap(), user, client.parse().unwrap(), &BTreeSet::new());
    choice.action == Action::Reject
}

#[test]
fn a_rule_matches_when_each_of_its_keys_does() {
    let cases = [
        ("", "a.org:80", true),
        ("domain = 'mit.edu'", "mit.edu:80", true),
        ("domain = 'MIT.edu'", "www.mit.edu:80", true),
        ("domain = 'mit.edu'", "notmit.edu:80", false),
        ("domain = 'mit.edu'", "18.0.0.1:80", false),
        ("domain = '*.mit.edu'", "www.mit.edu:80", true),
        ("domain = '*.mit.edu'", "mit.edu:80", false),
        ("domain = ['a.org', 'b.org']", "b.org:80", true),
        ("cidr = '18.0.0.0/8'", "18.1.2.3:80", true),
        ("cidr = '18.0.0.0/8'", "[::ffff:18.1.2.3]:80", true),
        ("cidr = ['10.0.0.0/8', '2001:db8::/32']", "[2001:db8::1]:80", true),
        ("cidr = '18.0.0.0/8'", "19.1.2.3:80", false),
        ("cidr = '0.0.0.0/0'", "a.org:80", false),
        ("port = 80", "a.org:80", true),
        ("port = [22, '8000-8100']", "a.org:8100", true),
        ("port = '8000-8100'", "a.org:8101", false),
        ("user = 'ann'", "a.org:80", true),
        ("user = ['bob', 'eve']", "a.org:80", false),
        ("client = '127.0.0.0/8'", "a.org:80", true),
        ("client = '192.0.2.0/24'", "a.org:80", false),
        ("domain = 'a.org'\nport = 443", "a.org:80", false),
        ("domain = 'a.org'\nport = 80\nuser = 'ann'", "a.org:80", true),
    ];
    for (keys, target, expected) in cases {
        assert_eq!(matches(keys, target, Some("ann"), "127.0.0.1"), expected, "{keys} / {target}");
    }
    assert!(!matches("user = 'ann'", "a.org:80", None, "127.0.0.1"));
}

#[test]
fn the_first_rule_that_matches_decides() {
    let rules = read(
        "[[rule]]\nport = 25\nreject = true
         [[rule]]\ndomain = 'mit.edu'\ndirect = true
         [[rule]]\nport = 25\ndirect = true",
    )
    .unwrap();
    let choose = |target: &str| {
        rules.choose(&target.parse().unwrap(), None, [127, 0, 0, 1].into(), &BTreeSet::new())
    };
    assert_eq!(choose("mit.edu:25"), Choice { action: Action::Reject, rule: Some(1) });
    let direct = Wishes { pin: Some(Route::Direct), ..Wishes::default() };
    let direct = Choice { action: Action::Overlay(direct), rule: Some(2) };
    assert_eq!(choose("mit.edu:80"), direct);
    let open = Action::Overlay(Wishes::default());
    assert_eq!(choose("a.org:80"), Choice { action: open, rule: None });
}

#[test]
fn every_wish_is_read() {
    let rules = read(
        "[[rule]]\nexit = ['mit', 'utah']\nhint = 'loss'\nclass = 'bulk'\nvia = 'cornell'
         patience = '5min'
         avoid = 'mediaone'
fallback = 'nyu'",
    );
    let choice = rules.unwrap().choose(
        &"a.org:1".parse().unwrap(),
        None,
        [127, 0, 0, 1].into(),
        &BTreeSet::new(),
    );
    let expected = Wishes {
        exits: vec!["mit".parse().unwrap(), "utah".parse().unwrap()],
        hint: Some(Hint::Loss),
        class: Some("bulk".into()),
        pin: Some(Route::Via("cornell".parse().unwrap())),
        avoid: vec!["mediaone".parse().unwrap()],
        fallback: vec!["nyu".parse().unwrap()],
        patience: Some(Duration::from_secs(300)),
        spread: None,
    };
    assert_eq!(choice.action, Action::Overlay(expected));
}

#[test]
fn a_rule_that_makes_no_sense_is_refused_with_the_reason() {
    let cases = [
        ("domain = 'a.org'\ncidr = '10.0.0.0/8'", "two rules"),
        ("direct = true\nreject = true", "stands alone"),
        ("direct = true\nvia = 'mit'", "not both"),
        ("via = 'mit'\navoid = ['mit']", "avoid"),
        ("exit = 'mit'\nfallback = ['utah', 'mit']", "take it out of one"),
        ("class = 'Bulk'", "class"),
        ("spread = 1", "2 to 8"),
        ("spread = 9", "2 to 8"),
        ("spread = 2\nvia = 'mit'", "one route only"),
        ("patience = '0s'", "1s"),
        ("patience = 60", "60s"),
        ("domain = []", "empty"),
        ("domain = '10.0.0.1'", "cidr"),
        ("port = 0", "65535"),
        ("port = 65536", "65535"),
        ("port = '90-80'", "8000-8100"),
        ("port = true", "one value or a list"),
        ("exit = 'MIT'", "utah-2"),
        ("hint = 'fast'", "throughput"),
        ("exits = 'mit'", "unknown field"),
    ];
    for (keys, why) in cases {
        let error = read(&format!("[[rule]]\n{keys}")).unwrap_err();
        assert!(error.contains(why), "{keys}: {error}");
    }
    let many = "[[rule]]\nreject = true\n".repeat(MAX_RULES + 1);
    assert!(read(&many).unwrap_err().contains("too many"));
}

#[test]
fn a_rule_is_told_in_words_and_a_paused_one_decides_nothing() {
    let text = "[[rule]]\ndomain = [\"*.mit.edu\", \"a.org\"]\nport = \"80-90\"\nexit = \"mit\"\nhint = \"loss\"\n
[[rule]]\nreject = true\n[[rule]]\nvia = \"utah\"\npatience = \"2m\"\n";
    let rules = crate::config::Config::parse(text).unwrap().rules;
    let told: Vec<_> = rules.told().map(|(_, told)| told).collect();
    let expected = [
        "domain *.mit.edu or a.org, port 80-90 → exit mit, hint loss",
        "every flow → reject",
        "every flow → via utah, patience 2m",
    ];
    assert_eq!(told, expected);
    let ids: Vec<String> = rules.told().map(|(id, _)| id.to_owned()).collect();
    let rule = |paused: &[&String]| {
        let paused = paused.iter().map(|id| (*id).clone()).collect();
        rules.choose(&"a.org:80".parse().unwrap(), None, [127, 0, 0, 1].into(), &paused).rule
    };
    assert_eq!(rule(&[]), Some(1));
    assert_eq!(rule(&[&ids[0]]), Some(2));
    assert_eq!(rule(&[&ids[0], &ids[1]]), Some(3));
    assert_eq!(rule(&[&ids[0], &ids[1], &ids[2]]), None);
    // An identifier goes with the rule, wherever it stands.
    let moved = crate::config::Config::parse("[[rule]]\nreject = true\n").unwrap().rules;
    assert_eq!(moved.told().next().unwrap().0, ids[1]);
}
