//! Names that change, fail and lie, in virtual time.

#![expect(clippy::unwrap_used, reason = "clippy takes helpers of tests for product code")]

use std::{collections::HashMap, sync::Mutex};

use tokio::time::sleep;

use super::*;
use crate::{
    exit::{ResolveError, StaticResolver},
    flow::BoxFuture,
    identity::AuthorityContact,
    lab::{Lab, Services},
};

/// Name servers whose answers change.
#[derive(Debug, Default)]
struct Names(Mutex<HashMap<String, Vec<IpAddr>>>);

impl Names {
    fn lead(&self, name: &str, to: &[&str]) {
        let ips = to.iter().map(|ip| ip.parse().unwrap()).collect();
        self.0.lock().unwrap().insert(name.to_owned(), ips);
    }
}

impl Resolver for Names {
    fn resolve<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<Vec<IpAddr>, ResolveError>> {
        let table = StaticResolver::new(self.0.lock().unwrap().clone());
        Box::pin(async move { table.resolve(name).await })
    }
}

struct Stage {
    lab: Lab,
    names: Arc<Names>,
    advertise: watch::Sender<Vec<Target>>,
    router: watch::Sender<RouterPort>,
}

impl Stage {
    /// Follows these places of the lab's entry, and these names of the exit as the authority's node.
    async fn set(advertise: &[&str], authority: &[&str]) -> Self {
        let lab = Lab::triangle(Services::default()).await.unwrap();
        for _ in 0..60 {
            sleep(Duration::from_secs(1)).await;
            if lab.is_meshed() {
                break;
            }
        }
        assert!(lab.is_meshed());
        let names = Arc::<Names>::default();
        let places = |texts: &[&str]| texts.iter().map(|text| text.parse().unwrap()).collect();
        let advertise = watch::Sender::new(places(advertise));
        let own = OwnAddresses {
            listen: "192.0.2.1:4600".parse().unwrap(),
            advertise: advertise.clone(),
            authority: Vec::new(),
            map_port: false,
            resolver: names.clone(),
        };
        let contact = AuthorityContact {
            name: "exit".parse().unwrap(),
            addresses: Vec::new(),
            names: places(authority),
        };
        let contact = Some(contact).filter(|contact| !contact.names.is_empty());
        let credentials = lab.credentials("entry").unwrap().clone().with_contact(contact);
        let mesh = lab.node("entry").unwrap().mesh().clone();
        let router = watch::Sender::default();
        tokio::spawn(follow(own, router.subscribe(), mesh, credentials));
        Self { lab, names, advertise, router }
    }

    /// Where the node `at` dials `whom`.
    fn dialled(&self, at: &str, whom: &str) -> Vec<String> {
        let members = self.lab.node(at).unwrap().mesh().known_members();
        let member = members.into_iter().find(|member| member.name.as_str() == whom).unwrap();
        member.addresses.iter().map(ToString::to_string).collect()
    }

    /// Waits, at most for two minutes, until the exit dials the entry at `address` or not.
    async fn until_told(&self, address: &str, told: bool) {
        for _ in 0..120 {
            let addresses = self.dialled("exit", "entry");
            if addresses.iter().any(|at| at == address) == told {
                return;
            }
            sleep(Duration::from_secs(1)).await;
        }
        panic!("{address}: {:?}", self.dialled("exit", "entry"));
    }
}

#[tokio::test(start_paused = true)]
async fn a_port_of_the_router_is_told_while_nothing_else_is_configured() {
    let stage = Stage::set(&[], &[]).await;
    stage.router.send_replace(RouterPort::Open("198.51.100.9:7".parse().unwrap()));
    stage.until_told("198.51.100.9:7", true).await;
    stage.until_told("192.0.2.1:4600", true).await;
    stage.advertise.send_replace(vec!["198.51.100.8:7".parse().unwrap()]);
    stage.until_told("198.51.100.8:7", true).await;
    stage.until_told("198.51.100.9:7", false).await;
    stage.advertise.send_replace(Vec::new());
    stage.until_told("198.51.100.9:7", true).await;
    stage.router.send_replace(RouterPort::Refused("it broke".to_owned()));
    stage.until_told("198.51.100.9:7", false).await;
    stage.until_told("192.0.2.1:4600", true).await;
}

#[tokio::test(start_paused = true)]
async fn a_name_is_followed_and_its_last_address_kept_while_it_fails() {
    let stage = Stage::set(&["entry.test:7", "198.51.100.9:7", "none.test:7"], &[]).await;
    stage.until_told("198.51.100.9:7", true).await;
    stage.names.lead("entry.test", &["198.51.100.1", "2001:db8::1"]);
    stage.until_told("198.51.100.1:7", true).await;
    stage.until_told("[2001:db8::1]:7", true).await;
    stage.names.lead("entry.test", &["198.51.100.2"]);
    stage.until_told("198.51.100.2:7", true).await;
    stage.until_told("198.51.100.1:7", false).await;
    stage.names.lead("entry.test", &[]);
    sleep(Duration::from_secs(600)).await;
    for kept in ["198.51.100.2:7", "198.51.100.9:7"] {
        stage.until_told(kept, true).await;
    }
    assert!(stage.lab.is_meshed(), "links stand whatever names say");
}

#[tokio::test(start_paused = true)]
async fn a_new_advertised_address_is_told_within_seconds() {
    let stage = Stage::set(&["entry.test:7", "198.51.100.9:7"], &[]).await;
    stage.names.lead("entry.test", &["198.51.100.1"]);
    stage.names.lead("other.test", &["198.51.100.2"]);
    stage.until_told("198.51.100.1:7", true).await;
    sleep(Duration::from_secs(300)).await;
    let begun = tokio::time::Instant::now();
    stage.advertise.send_replace(vec!["other.test:8".parse().unwrap()]);
    stage.until_told("198.51.100.2:8", true).await;
    for gone in ["198.51.100.1:7", "198.51.100.9:7"] {
        stage.until_told(gone, false).await;
    }
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    assert!(stage.lab.is_meshed(), "links stand");
}

#[tokio::test(start_paused = true)]
async fn a_node_known_by_a_name_that_fails_tells_where_it_listens() {
    let stage = Stage::set(&["none.test:7"], &[]).await;
    stage.until_told("192.0.2.1:4600", true).await;
    stage.names.lead("none.test", &["198.51.100.1"]);
    stage.until_told("198.51.100.1:7", true).await;
}

#[tokio::test(start_paused = true)]
async fn of_a_name_with_a_hundred_addresses_four_are_told() {
    let stage = Stage::set(&["many.test:7"], &[]).await;
    let many: Vec<_> = (0..100).map(|host| format!("198.51.100.{host}")).collect();
    let mut many: Vec<_> = many.iter().map(String::as_str).collect();
    many.push("2001:db8::1");
    stage.names.lead("many.test", &many);
    stage.until_told("[2001:db8::1]:7", true).await;
    let told = stage.dialled("exit", "entry");
    assert_eq!(told.iter().filter(|at| at.ends_with(":7")).count(), MAX_OF_NAME, "{told:?}");
}

#[tokio::test(start_paused = true)]
async fn a_name_that_leads_into_the_machine_or_its_networks_is_not_told() {
    let stage = Stage::set(&["local.test:7"], &[]).await;
    stage.names.lead("local.test", &["198.51.100.1"]);
    stage.until_told("198.51.100.1:7", true).await;
    let local = ["127.0.0.1", "::1", "10.0.0.1", "fe80::1", "224.0.0.1", "0.0.0.0"];
    stage.names.lead("local.test", &local);
    sleep(Duration::from_secs(120)).await;
    assert_eq!(stage.dialled("exit", "entry").len(), 2, "{:?}", stage.dialled("exit", "entry"));
    stage.until_told("198.51.100.1:7", true).await;
    stage.names.lead("local.test", &[&local[..], &["198.51.100.2"]].concat());
    stage.until_told("198.51.100.2:7", true).await;
}

#[tokio::test(start_paused = true)]
async fn the_authority_is_looked_for_where_its_name_leads_now() {
    let mut stage = Stage::set(&["198.51.100.9:7"], &["hub.test:7", "none.test:7"]).await;
    stage.names.lead("hub.test", &["198.51.100.1", "127.0.0.1"]);
    sleep(Duration::from_secs(120)).await;
    let is_dialled =
        |stage: &Stage, at: &str| stage.dialled("entry", "exit").iter().any(|a| a == at);
    assert!(!is_dialled(&stage, "198.51.100.1:7"), "it has a link");
    stage.lab.crash("exit");
    sleep(Duration::from_secs(120)).await;
    assert!(is_dialled(&stage, "198.51.100.1:7"));
    assert!(!is_dialled(&stage, "127.0.0.1:7"));
    stage.names.lead("hub.test", &["198.51.100.2"]);
    sleep(Duration::from_secs(120)).await;
    assert!(is_dialled(&stage, "198.51.100.2:7") && !is_dialled(&stage, "198.51.100.1:7"));
    // Where it was, and what its record says, are dialled too.
    assert!(is_dialled(&stage, &format!("{}:4600", stage.lab.topology().address("exit"))));
}

#[test]
fn both_families_of_a_name_are_used_in_turn() {
    let ips = ["192.0.2.1", "192.0.2.2", "2001:db8::1", "::ffff:192.0.2.3"];
    let ips = ips.map(|ip| ip.parse().unwrap());
    let order = in_turn(&ips).iter().map(ToString::to_string).collect::<Vec<_>>();
    assert_eq!(order, ["2001:db8::1", "192.0.2.1", "192.0.2.2", "192.0.2.3"]);
}

#[test]
fn advertised_addresses_go_before_those_of_the_socket() {
    let first = |advertise: &[&str], listen: &str| {
        let own = OwnAddresses {
            listen: listen.parse().unwrap(),
            advertise: watch::Sender::new(
                advertise.iter().map(|text| text.parse().unwrap()).collect(),
            ),
            authority: Vec::new(),
            map_port: false,
            resolver: Arc::<Names>::default(),
        };
        own.at_first().iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    assert_eq!(first(&["192.0.2.1:7", "a.test:7"], "127.0.0.1:9"), ["192.0.2.1:7"]);
    assert_eq!(first(&[], "127.0.0.1:9"), ["127.0.0.1:9"]);
    assert_eq!(first(&["a.test:7"], "127.0.0.1:9"), ["127.0.0.1:9"]);
    for told in [first(&[], "0.0.0.0:9"), first(&[], "[::]:9")].concat() {
        let told: SocketAddr = told.parse().unwrap();
        assert!(!told.ip().is_unspecified() && told.port() == 9);
    }
}
