//! Packets between programs of two nodes.

use std::{sync::mpsc, time::Duration};

use ronproxy::{
    Conduit, ConduitError, DatagramDrop, Error, FlowLabel, Ingress, Node, Packet, PacketSender,
    RefusalKind, Route,
    internals::{
        emulator,
        lab::{Lab, LabNode},
        transport::Congestion,
    },
};
use tokio::time::{Instant, sleep, timeout};

use super::{SOON, example_conference, services, triangle};

/// An overlay of `entry` in group `staff`, `exit` and `relay`, with the links known; its entry and its exit.
async fn pair(seed: u64) -> (Lab, Node, Node) {
    let mut nodes = vec![
        LabNode::new("entry", false, false),
        LabNode::new("exit", false, true),
        LabNode::new("relay", true, false),
    ];
    nodes[0].groups = vec!["staff".to_owned()];
    let topology = emulator::triangle();
    let lab = Lab::start(topology, seed, nodes, services(), Congestion::default()).await.unwrap();
    let (entry, exit) = (lab.open("entry").unwrap(), lab.open("exit").unwrap());
    timeout(SOON, entry.ready()).await.unwrap().unwrap();
    // Nodes advertise their links at most once a second.
    sleep(Duration::from_secs(3)).await;
    (lab, entry, exit)
}

/// Opens the flow: until it is open, 32 packets wait.
async fn begin(from: &Conduit, to: &mut Conduit) {
    from.send("exit", b"begin").unwrap();
    assert_eq!(next(to).await.bytes(), b"begin");
}

async fn next(conduit: &mut Conduit) -> Packet {
    timeout(SOON, conduit.recv()).await.expect("no packet came").unwrap()
}

/// The refusal of the next packet that is refused: the answer takes a round trip.
async fn refusal(sender: &PacketSender, to: &str) -> RefusalKind {
    let refused = async {
        loop {
            match sender.send(to, b"x") {
                Ok(()) => sleep(Duration::from_millis(50)).await,
                Err(Error::Refused(refusal)) => return refusal.kind,
                Err(other) => panic!("{other}"),
            }
        }
    };
    timeout(SOON, refused).await.expect("it is not refused")
}

#[tokio::test(start_paused = true)]
async fn the_example_conference_goes_on_by_another_route_after_a_cut() {
    let conference = example_conference::in_memory().await.unwrap();
    assert_eq!(conference.before, Route::Direct);
    assert_eq!(conference.after, Route::Via("relay".parse().unwrap()));
    for heard in &conference.heard {
        assert!(heard.sent >= 200, "{heard}");
        let lost = heard.sent - heard.arrived;
        // Three tenths of a second of the four.
        assert!(lost <= heard.sent * 3 / 40, "{heard}");
        assert!(heard.pause < Duration::from_millis(400), "{heard}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_packet_arrives_with_its_sender_and_its_label() {
    let (lab, entry, exit) = pair(1).await;
    let (here, mut there) = (entry.conduit("chat").unwrap(), exit.conduit("chat").unwrap());
    assert!(there.try_recv().unwrap().is_none());
    let labelled = here.sender().label(FlowLabel(7));
    labelled.send("exit", b"hello").unwrap();
    let packet = next(&mut there).await;
    assert_eq!((packet.peer().as_str(), packet.groups()), ("entry", &["staff".to_owned()][..]));
    assert_eq!((packet.label(), packet.bytes()), (FlowLabel(7), &b"hello"[..]));
    // The select-like way.
    labelled.send("exit", b"").unwrap();
    timeout(SOON, there.readable()).await.unwrap().unwrap();
    there.readable().await.unwrap();
    assert_eq!(there.try_recv().unwrap().unwrap().into_bytes(), b"");
    let flows = entry.flows();
    assert_eq!(
        (flows.len(), flows[0].label, flows[0].ingress),
        (1, FlowLabel(7), Ingress::Conduit)
    );
    let datagrams = flows[0].datagrams.unwrap();
    assert_eq!((datagrams.sent, datagrams.lost_sent), (2, 0));
    assert_eq!((here.counts().sent, there.counts().received), (2, 2));
    lab.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_node_sends_packets_to_itself_without_a_lane() {
    let (lab, _, exit) = pair(1).await;
    let mut chat = exit.conduit("chat").unwrap();
    chat.send("exit", b"note").unwrap();
    let packet = next(&mut chat).await;
    assert_eq!((packet.peer(), packet.bytes()), (exit.name(), &b"note"[..]));
    assert!(exit.lanes().is_empty());
    lab.stop().await;
}

#[tokio::test(start_paused = true)]
async fn packets_of_one_label_share_a_flow_and_others_have_their_own() {
    let (lab, entry, exit) = pair(1).await;
    let kinds = ["audio", "video"];
    let mut there = kinds.map(|kind| exit.conduit(kind).unwrap());
    let here = kinds.map(|kind| entry.conduit(kind).unwrap());
    for label in [1, 2] {
        for (conduit, there) in here.iter().zip(&mut there) {
            conduit.sender().label(FlowLabel(label)).send("exit", b"x").unwrap();
            assert_eq!(next(there).await.label(), FlowLabel(label));
        }
    }
    let mut flows: Vec<_> =
        entry.flows().into_iter().map(|flow| (flow.label.0, flow.lane)).collect();
    flows.sort_unstable();
    assert_eq!(flows.iter().map(|(label, _)| *label).collect::<Vec<_>>(), [1, 2]);
    lab.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_cut_loses_packets_of_a_fifth_of_a_second_at_most() {
    for seed in 1..4 {
        let (lab, entry, exit) = pair(seed).await;
        let (here, mut there) = (entry.conduit("voice").unwrap(), exit.conduit("voice").unwrap());
        begin(&here, &mut there).await;
        // Four seconds of 500 packets a second.
        for number in 0..2_000_u32 {
            if number == 1_000 {
                let at = |name| lab.topology().address(name);
                lab.internet().cut(at("entry"), at("exit"));
            }
            here.send("exit", &number.to_be_bytes()).unwrap();
            sleep(Duration::from_millis(2)).await;
        }
        sleep(Duration::from_secs(1)).await;
        let mut got = 0;
        while there.try_recv().unwrap().is_some() {
            got += 1;
        }
        assert!(2_000 - got <= 100, "seed {seed}: {got} arrived");
        let flow = &entry.flows()[0];
        assert_eq!(flow.route, Some(Route::Via("relay".parse().unwrap())));
        assert_eq!(flow.datagrams.unwrap().lost_sent, 2_000 - got, "{flow:?}");
        lab.stop().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_packet_longer_than_the_path_carries_is_dropped() {
    let (lab, entry, exit) = pair(1).await;
    let (here, mut there) = (entry.conduit("bulk").unwrap(), exit.conduit("bulk").unwrap());
    let sender = here.sender();
    assert_eq!(sender.max_len("exit").unwrap(), 1_100);
    sender.send("exit", &[0; 1_100]).unwrap();
    assert_eq!(next(&mut there).await.bytes().len(), 1_100);
    // Until QUIC has found the path's size.
    sleep(Duration::from_secs(5)).await;
    let most = sender.max_len("exit").unwrap();
    assert!((1_100..2_000).contains(&most), "{most}");
    sender.send("exit", &vec![0; most]).unwrap();
    assert_eq!(next(&mut there).await.bytes().len(), most);
    for len in [most + 1, 2_001, 100_000] {
        let error = sender.send("exit", &vec![0; len]).unwrap_err();
        assert!(matches!(error, Error::Dropped(DatagramDrop::TooLarge)), "{error}");
    }
    assert_eq!(sender.counts().dropped, [("too-large", 3)]);
    lab.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_type_that_nobody_receives_is_refused_by_the_other_node() {
    let (lab, entry, exit) = pair(1).await;
    let here = entry.conduit("voice").unwrap();
    // No program of the node takes packets at all.
    assert_eq!(refusal(&here.sender(), "exit").await, RefusalKind::ConnectionRefused);
    let other = exit.conduit("video").unwrap();
    sleep(Duration::from_secs(1)).await;
    // One does, but not of this type.
    assert_eq!(refusal(&here.sender(), "exit").await, RefusalKind::ConnectionRefused);
    let dropped = exit.status().dropped_datagrams;
    assert!(dropped.iter().any(|(reason, count)| reason == "unknown-type" && *count > 0));
    assert_eq!(other.counts().received, 0);
    assert!(here.counts().dropped(DatagramDrop::Refused) > 0);
    // Once it does, the next packets arrive.
    let mut there = exit.conduit("voice").unwrap();
    sleep(Duration::from_secs(1)).await;
    here.send("exit", b"x").unwrap();
    next(&mut there).await;
    lab.stop().await;
}

#[tokio::test(start_paused = true)]
async fn unknown_nodes_and_nodes_that_are_no_exit_are_refused() {
    let (lab, entry, _exit) = pair(1).await;
    let here = entry.conduit("voice").unwrap();
    for (to, kind) in [("nowhere", RefusalKind::NoExit), ("relay", RefusalKind::NotAnExit)] {
        let error = here.send(to, b"x").unwrap_err();
        assert!(matches!(&error, Error::Refused(refusal) if refusal.kind == kind), "{error}");
    }
    assert!(matches!(here.send("No Name", b"x"), Err(Error::Name(_))));
    let error = entry.on_packet("chat", drop).unwrap_err();
    assert!(matches!(error, Error::Conduit(ConduitError::NotAnExit)), "{error}");
    assert_eq!(here.counts().dropped, [("refused", 2)]);
    // As many nodes as one likes.
    for n in 0..1_000 {
        assert!(here.send(format!("n{n}"), b"x").is_err());
    }
    lab.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_type_is_received_once_at_a_time() {
    let (lab, _, exit) = pair(1).await;
    let first = exit.conduit("voice").unwrap();
    let taken = |result: Result<(), Error>| match result {
        Err(Error::Conduit(ConduitError::Taken(kind))) => kind,
        other => panic!("{other:?}"),
    };
    assert_eq!(taken(exit.conduit("voice").map(drop)), "voice");
    assert_eq!(taken(exit.on_packet("voice", drop).map(drop)), "voice");
    drop(first);
    exit.on_packet("voice", drop).unwrap();
    assert_eq!(taken(exit.conduit("voice").map(drop)), "voice");
    let error = exit.conduit("Voice").unwrap_err();
    assert!(matches!(error, Error::Conduit(ConduitError::Type(_))), "{error}");
    lab.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_receiver_that_never_reads_loses_what_does_not_fit() {
    let (lab, entry, exit) = pair(1).await;
    let kinds = ["idle", "busy"];
    let [idle, mut busy] = kinds.map(|kind| exit.conduit(kind).unwrap());
    let [to_idle, to_busy] = kinds.map(|kind| entry.conduit(kind).unwrap());
    begin(&to_busy, &mut busy).await;
    for _ in 0..50 {
        for _ in 0..100 {
            to_idle.send("exit", b"x").unwrap();
        }
        sleep(Duration::from_millis(10)).await;
    }
    sleep(Duration::from_secs(1)).await;
    let counts = idle.counts();
    // One sender has half of the queue.
    assert_eq!(counts.received, 4_096);
    assert_eq!(counts.dropped, [("inbox-full", 5_000 - 4_096)]);
    to_busy.send("exit", b"x").unwrap();
    next(&mut busy).await;
    lab.stop().await;
}

#[tokio::test(start_paused = true)]
async fn conduits_of_a_stopped_node_say_so() {
    let (lab, entry, exit) = pair(1).await;
    let (here, mut there) = (entry.conduit("voice").unwrap(), exit.conduit("voice").unwrap());
    here.send("exit", b"last").unwrap();
    timeout(SOON, there.readable()).await.unwrap().unwrap();
    let mut waits = exit.conduit("other").unwrap();
    let waiting = tokio::spawn(async move { waits.recv().await.map(drop) });
    sleep(Duration::from_millis(10)).await;
    timeout(SOON, exit.stop()).await.expect("stopping hangs");
    assert!(matches!(timeout(SOON, waiting).await.unwrap().unwrap(), Err(Error::Stopped)));
    // What had come is still there.
    assert_eq!(there.try_recv().unwrap().unwrap().bytes(), b"last");
    assert!(matches!(there.recv().await, Err(Error::Stopped)));
    assert!(matches!(there.try_recv(), Err(Error::Stopped)));
    assert!(matches!(there.send("entry", b"x"), Err(Error::Stopped)));
    assert!(matches!(exit.conduit("new"), Err(Error::Stopped)));
    assert!(matches!(exit.on_packet("new", drop), Err(Error::Stopped)));
    // The other node goes on, and finds out that this one is gone.
    let started = Instant::now();
    while here.send("exit", b"x").is_ok() {
        sleep(Duration::from_millis(100)).await;
        assert!(started.elapsed() < Duration::from_secs(60), "nobody tells");
    }
    lab.stop().await;
}

#[tokio::test]
async fn a_callback_that_panics_loses_its_packet_and_nothing_else() {
    let (lab, entry) = triangle().await;
    let exit = lab.open("exit").unwrap();
    let (calls, mut called) = tokio::sync::mpsc::unbounded_channel();
    let receiver = exit.on_packet("voice", move |packet| {
        assert_ne!(packet.bytes(), b"bad", "this panic is meant");
        calls.send(packet.into_bytes()).unwrap();
    });
    let here = entry.conduit("voice").unwrap();
    for payload in [&b"one"[..], b"bad", b"two"] {
        here.send("exit", payload).unwrap();
    }
    for expected in [&b"one"[..], b"two"] {
        assert_eq!(timeout(SOON, called.recv()).await.unwrap().unwrap(), expected);
    }
    let counts = receiver.unwrap().counts();
    assert_eq!(counts.dropped, [("callback-panicked", 1)]);
    lab.stop().await;
    // The thread ends with the node.
    assert_eq!(timeout(SOON, called.recv()).await.expect("it goes on"), None);
}

#[tokio::test]
async fn a_callback_that_blocks_holds_up_its_own_packets_only() {
    let (lab, entry) = triangle().await;
    let exit = lab.open("exit").unwrap();
    let (release, blocked) = mpsc::channel::<()>();
    let stuck = exit.on_packet("stuck", move |_| _ = blocked.recv()).unwrap();
    let mut chat = exit.conduit("chat").unwrap();
    let [to_stuck, to_chat] = ["stuck", "chat"].map(|kind| entry.conduit(kind).unwrap());
    begin(&to_chat, &mut chat).await;
    for _ in 0..20 {
        for _ in 0..300 {
            to_stuck.send("exit", b"x").unwrap();
        }
        to_chat.send("exit", b"x").unwrap();
        next(&mut chat).await;
    }
    let full = async {
        while stuck.counts().dropped(DatagramDrop::InboxFull) == 0 {
            sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(SOON, full).await.expect("its queue is not full");
    timeout(SOON, exit.stop()).await.expect("stopping waits for the callback");
    drop(release);
    lab.stop().await;
}
