//! A program without proxy support downloads while the path in use is cut.

use std::{process::Stdio, time::Duration};

use tokio::{io::AsyncReadExt as _, time::timeout};

use crate::{
    processes::{Processes, Share, turn},
    scenarios::triangle,
    services::Servers,
    stage::{WEB, is_allowed, naming},
    support::pattern,
    tools::{LIMIT, client, have},
    trouble::Fragile as _,
    work::Arrivals,
};

/// So much that the cut, when a tenth has arrived, is in the middle at 100 Mbit/s.
const SIZE: usize = 20_000_000;

/// Downloads by its own TCP connection.
const DOWNLOAD: &str = r#"
import socket, sys
tcp = socket.create_connection((sys.argv[1], int(sys.argv[2])), 30)
tcp.sendall(b"GET %d\n" % int(sys.argv[3]))
while part := tcp.recv(65536):
    sys.stdout.buffer.write(part)
"#;

#[tokio::test(flavor = "multi_thread")]
async fn a_programs_download_goes_on_after_a_cut() {
    let _turn = turn(Share::All).await;
    if !have("python3") {
        return;
    }
    let topology = triangle(Duration::from_millis(60));
    let overlay = Processes::start_by(topology, &["relay"], 7, naming).await;
    let dir = overlay.dir("entry");
    if !is_allowed(&dir) {
        return;
    }
    overlay.routes("entry", 2, "direct").await;
    let port = Servers::start(&Arrivals::new()).await.source.port().to_string();
    let mut program = client(env!("CARGO_BIN_EXE_ronproxy"));
    program.arg("--dir").arg(&dir).args(["exec", "--", "python3", "-c", DOWNLOAD, WEB, &port]);
    let mut program = program.arg(SIZE.to_string()).stdout(Stdio::piped()).spawn().unwrap();
    let mut arriving = program.stdout.take().unwrap();
    let (mut at, mut part, mut is_cut) = (0, vec![0; 64 * 1024], false);
    loop {
        let got = timeout(LIMIT, arriving.read(&mut part)).await.expect("it stalls").unwrap();
        if got == 0 {
            break;
        }
        assert!(part[..got] == *pattern(at, got), "wrong near {at}");
        at += got;
        if !is_cut && at > SIZE / 10 {
            let site = |name| overlay.topology().address(name);
            overlay.internet().cut(site("entry"), site("exit"));
            is_cut = true;
        }
    }
    assert_eq!((at, is_cut), (SIZE, true));
    assert!(program.wait().await.unwrap().success());
    assert_eq!(overlay.facts("entry", "lanes")[0]["route"], "via relay");
    overlay.check();
}
