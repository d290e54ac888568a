//! What a local program or a web page writes to the dashboard's port, over a real connection.

use std::{net::SocketAddr, sync::Arc, time::Instant};

use tokio::runtime::Runtime;
use tokio_util::sync::CancellationToken;

use super::{Fuzz, answer};
use crate::{
    admin::{Admin, RunFacts},
    dashboard::{Dashboard, Settings, token},
    emulator::Topology,
    entry::LocalUsers,
    lab::{Lab, LabNode, Services},
    node::members::membership,
    transport::Congestion,
};

/// The node's name: an answer with it tells a secret.
const NAME: &str = "knoxville";

const WORDS: &[&[u8]] = &[
    b"\r\n",
    b"\r\n\r\n",
    b"GET ",
    b"POST ",
    b"Host: ",
    b"Authorization: Bearer ",
    b"Content-Length: 9\r\n",
    b"Transfer-Encoding: chunked\r\n",
    b"Sec-Fetch-Site: none\r\n",
    b"/api/v1",
    b"%00",
    b"?since=1&limit=9",
    b"&flows=1",
    b"HTTP/1.1",
];

/// Paths that something answers.
const PATHS: [&str; 14] = [
    "GET /",
    "GET /healthz",
    "GET /open?link=abc",
    "GET /api/v1/status",
    "GET /why?dest=a.test:80&hint=loss",
    "GET /events?since=1&limit=5&class=flow",
    "GET /overview?since=1&flows=1",
    "POST /steer?exit=a&hint=loss&avoid=b",
    "POST /close?label=0000000a",
    "GET /members",
    "POST /invite?name=mole",
    "GET /proxies/Exit",
    "PUT /proxies/Exit",
    "GET /connections",
];

/// A node and its dashboard, until `stop`.
async fn open(bearer: &str, stop: &CancellationToken) -> (Lab, SocketAddr, CancellationToken) {
    let nodes = vec![LabNode::new(NAME, false, true)];
    let topology = Topology::new([NAME]);
    let congestion = Congestion::default();
    let lab = Lab::start(topology, 7, nodes, Services::default(), congestion).await.unwrap();
    let settings = Settings {
        listen: ([127, 0, 0, 1], 0).into(),
        open_metrics: false,
        local_users: LocalUsers::Own,
        token: bearer.to_owned(),
        clash_origins: Vec::new(),
    };
    let dashboard = Dashboard::bind(settings).await.unwrap();
    let (listen, stopped) = (dashboard.listen(), CancellationToken::new());
    let admin = Admin {
        view: lab.node(NAME).unwrap().view(),
        run: RunFacts {
            pid: 1,
            listen,
            authority: false,
            invites: false,
            confinement: "none: a test".to_owned(),
        },
        started: Instant::now(),
        stop: stopped.clone(),
        links: Some(dashboard.links()),
        reload: None,
        logs: None,
        exit_flows: None,
        save: None,
        membership: membership(lab.node(NAME).unwrap(), None),
        playground: None,
    };
    tokio::spawn(dashboard.serve(Arc::new(admin), stop.clone()));
    (lab, listen, stopped)
}

fn requests(listen: SocketAddr, headers: &str) -> Vec<Vec<u8>> {
    let one = |path| {
        let text =
            format!("{path} HTTP/1.1\r\nHost: {listen}\r\nConnection: close\r\n{headers}\r\n");
        text.into_bytes()
    };
    PATHS.map(one).to_vec()
}

#[test]
fn mutated_dashboard_requests_are_answered_and_reveal_nothing() {
    let runtime: Runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let (bearer, stop) = (token([7; 32]), CancellationToken::new());
    let (lab, listen, stopped) = runtime.block_on(open(&bearer, &stop));
    let ask = |bytes: &[u8]| {
        let answer = runtime.block_on(answer(listen, bytes));
        String::from_utf8_lossy(&answer).into_owned()
    };
    let page = format!("Origin: http://{listen}\r\nCookie: ronproxy-{}=abc\r\n", listen.port());
    let seeds = requests(listen, "").into_iter().chain(requests(listen, &page));
    let seeds = seeds.chain(requests(listen, "Authorization: Bearer abc\r\n"));
    Fuzz::new("dashboard", seeds).with_words(WORDS).run(|bytes| {
        let told = ask(bytes);
        assert!(!told.contains(NAME) && !stopped.is_cancelled(), "{told}");
    });
    let owner = requests(listen, &format!("Authorization: Bearer {bearer}\r\n"));
    assert!(ask(&owner[3]).contains(NAME), "the owner is told nothing");
    Fuzz::new("dashboard-owner", owner).with_words(WORDS).run(|bytes| {
        ask(bytes);
    });
    stop.cancel();
    runtime.block_on(lab.stop());
}
