//! The policy example of the SOSP 2001 paper (§4.4): only research traffic may use the research
//! backbone, whatever it would gain.

use ronproxy::internals::{
    emulator::Topology,
    overlay::{
        candidates::Exclusion,
        policy::{Policy, PolicyRule},
    },
};

use crate::{
    figures::{row, seeds},
    shapes::{Plan, rtt, s, story},
    sim::Sim,
    watch::{STEER, Watch, run},
};

/// The backbone between `mit` and `utah` is the fastest way to `arosnet`; `cable` is the other one.
fn topology() -> Topology {
    Topology::new(["mit", "utah", "arosnet", "cable"])
        .both("mit", "arosnet", rtt(97))
        .both("mit", "utah", rtt(58))
        .both("utah", "arosnet", rtt(10))
        .both("mit", "cable", rtt(50))
        .both("cable", "arosnet", rtt(90))
        .both("utah", "cable", rtt(80))
}

fn research_only(_: &str) -> Policy {
    let rule = PolicyRule {
        name: "research-only".into(),
        from: "mit".to_owned().try_into().unwrap(),
        to: "utah".to_owned().try_into().unwrap(),
        relay: None,
        allow_groups: vec!["research".to_owned()],
        deny_groups: Vec::new(),
        allow_classes: Vec::new(),
        deny_classes: Vec::new(),
    };
    vec![rule].try_into().unwrap()
}

#[test]
fn the_research_backbone_is_no_candidate_for_commercial_traffic() {
    for seed in seeds(3) {
        let topology = topology();
        let plan = Plan(&topology);
        let mut sim = Sim::with_policy(&topology, seed, research_only);
        // Commercial traffic loses its two routes one after the other.
        sim.plan(vec![
            plan.cut(s(60), "mit", "arosnet"),
            plan.cut(s(120), "mit", "cable"),
            plan.heal(s(180), "mit", "arosnet"),
        ]);
        let mut watches = [
            Watch::in_groups(&sim, "mit", "arosnet", "latency", &["research"]),
            Watch::in_groups(&sim, "mit", "arosnet", "latency", &["commercial"]),
        ];
        let mut routes = [Vec::new(), Vec::new()];
        for end in [55, 115, 175, 250] {
            run(&mut sim, &mut watches, s(end), STEER, |_, watches| {
                assert_ne!(watches[1].route(), "via utah");
            });
            for (routes, watch) in routes.iter_mut().zip(&mut watches) {
                routes.push(watch.route());
                let utah = watch.decide(&mut sim).candidates.into_iter();
                let utah = utah.map(|e| e.candidate).find(|c| c.route.to_string() == "via utah");
                let refused = matches!(utah.unwrap().excluded, Some(Exclusion::Policy(_)));
                let commercial = watch.groups() == ["commercial"];
                assert_eq!(refused, commercial, "{}", story(seed, watch));
            }
        }
        assert_eq!(routes[0], ["via utah"; 4]);
        // With neither route left the last one is kept, as a dead route may heal.
        assert_eq!(routes[1], ["direct", "via cable", "via cable", "direct"]);
    }
    row("policy: research-only backbone", "commercial flows never on it", "never");
}
