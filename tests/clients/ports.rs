//! Ports that stand for an exit and a hint.

use crate::{
    overlay::{Running, Site, free_tcp, json, wait_for},
    server::Server,
    tools::{curl, finish, have, text},
};

#[tokio::test(flavor = "multi_thread")]
async fn each_port_of_the_proxy_has_its_exit_and_hint() {
    if !have("curl") {
        return;
    }
    let site = Site::new();
    let _hub = Running::start(&site.hub(), &[]);
    let dir = site.join("leaf");
    let (hub, nobody) = (free_tcp(), free_tcp());
    let file = dir.join("config.toml");
    let before = std::fs::read_to_string(&file).unwrap();
    let ports = format!(
        "[[entry.port]]\nlisten = \"{hub}\"\nexit = \"hub\"\nhint = \"loss\"\n\
         [[entry.port]]\nlisten = \"{nobody}\"\nexit = \"nobody\"\n"
    );
    std::fs::write(&file, before + &ports).unwrap();
    let leaf = Running::start(&dir, &[]);
    wait_for("the link", || json(&dir, &["links"])[0]["up"] == true);
    let server = Server::start().await;
    let page = server.url("/bytes/5");
    let get = |proxy: String| {
        let mut curl = curl(&proxy);
        curl.arg(&page);
        curl
    };
    for scheme in ["socks5h", "http"] {
        assert_eq!(text(get(format!("{scheme}://{hub}"))).await.len(), 5);
        assert_eq!(text(get(format!("{scheme}://{}", leaf.proxy()))).await.len(), 5);
        let refused = finish(get(format!("{scheme}://{nobody}"))).await;
        assert!(!refused.status.success());
        // What the client says goes before.
        assert_eq!(text(get(format!("{scheme}://exit=hub:x@{nobody}"))).await.len(), 5);
    }
    assert_eq!(server.requests(), 6);
    let lanes = json(&dir, &["lanes"]);
    let hints: Vec<_> = lanes.as_array().unwrap().iter().map(|lane| &lane["hint"]).collect();
    assert!(hints.iter().any(|hint| **hint == "loss"), "{hints:?}");
    let mut pac = crate::tools::client("curl");
    pac.args(["-qsS", &format!("http://{hub}/proxy.pac")]).stdout(std::process::Stdio::piped());
    assert!(text(pac).await.contains(&format!("PROXY {hub}")));
}
