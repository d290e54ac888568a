//! ssh and apt-get, which are run as on any machine.

use std::{path::Path, process::Stdio};

use tokio::{io::AsyncWriteExt as _, time::timeout};

use crate::{
    bytes::{MIB, Stream},
    overlay::{free_tcp, wait_for},
    server::Server,
    stage::{Stage, WEB},
    tools::{LIMIT, client, have, text},
};

#[tokio::test(flavor = "multi_thread")]
async fn ssh_carries_four_mebibytes_through_the_exit() {
    let Some(stage) = Stage::set() else { return };
    if !["ssh", "ssh-keygen", "sha256sum"].into_iter().all(have) {
        return;
    }
    let privileged = rustix::process::getuid().is_root();
    if !Path::new("/usr/sbin/sshd").exists() || (privileged && !Path::new("/run/sshd").exists()) {
        println!("skipped: no sshd that could be started");
        return;
    }
    let (key, config, port) =
        (stage.site.dir("key"), stage.site.dir("sshd_config"), free_tcp().port());
    let mut keygen = client("ssh-keygen");
    keygen.args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(&key);
    text(keygen).await;
    let shown = key.display();
    let settings = format!(
        "Port {port}\nListenAddress 127.0.0.1\nHostKey {shown}\nAuthorizedKeysFile {shown}.pub\n\
         StrictModes no\nPidFile none\nPermitRootLogin prohibit-password\n"
    );
    std::fs::write(&config, settings).unwrap();
    let sshd = client("/usr/sbin/sshd").args(["-D", "-e", "-f"]).arg(&config).spawn();
    let _sshd = sshd.unwrap();
    wait_for("sshd", || std::net::TcpStream::connect(("127.0.0.1", port)).is_ok());

    let (port, key) = (port.to_string(), key.to_str().unwrap().to_owned());
    let options = ["ssh", "-F", "none", "-o", "BatchMode=yes", "-o", "StrictHostKeyChecking=no"];
    let quiet = ["-o", "UserKnownHostsFile=/dev/null", "-o", "LogLevel=ERROR", "-i", &key];
    let program = [&options[..], &quiet, &["-p", &port, WEB, "sha256sum"]].concat();
    let mut ssh = stage.exec(&[], &program);
    let mut child = ssh.stdin(Stdio::piped()).spawn().unwrap();
    let mut input = child.stdin.take().unwrap();
    let talking = async {
        for block in Stream::of(4 * MIB) {
            input.write_all(&block).await.unwrap();
        }
        drop(input);
        child.wait_with_output().await.unwrap()
    };
    let output = timeout(LIMIT, talking).await.expect("ssh hangs");
    let said = String::from_utf8_lossy(&output.stdout);
    let sum = Stream::of(4 * MIB).checksum();
    assert_eq!(said.split_whitespace().next(), Some(&*sum), "{output:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn apt_get_reads_a_list_and_downloads_a_package() {
    let Some(stage) = Stage::set() else { return };
    if !["apt-get", "dpkg-deb"].into_iter().all(have) {
        return;
    }
    let files = stage.site.dir("files");
    build_repository(&files).await;
    let server = Server::of_files(files.clone()).await;
    let apt = stage.site.dir("apt");
    for folder in ["lists/partial", "cache/archives/partial"] {
        std::fs::create_dir_all(apt.join(folder)).unwrap();
    }
    std::fs::write(apt.join("status"), "").unwrap();
    let source = format!("deb [trusted=yes] http://{WEB}:{} repo/\n", server.address.port());
    std::fs::write(apt.join("sources.list"), source).unwrap();
    let at = |name: &str| apt.join(name).display().to_string();
    let options = [
        format!("Dir::State::Lists={}", at("lists")),
        format!("Dir::State::status={}", at("status")),
        format!("Dir::Cache={}", at("cache")),
        format!("Dir::Etc::SourceList={}", at("sources.list")),
        "Dir::Etc::SourceParts=/dev/null".to_owned(),
        "Acquire::AllowInsecureRepositories=true".to_owned(),
        "APT::Sandbox::User=root".to_owned(),
    ];
    let options: Vec<_> = options.iter().flat_map(|option| ["-o", option]).collect();
    let run = |rest: &[&str]| {
        let program = [&["apt-get", "-q"][..], &options, rest].concat();
        let mut command = stage.exec(&[], &program);
        command.current_dir(&apt);
        command
    };
    text(run(&["update"])).await;
    text(run(&["download", "ron-test"])).await;
    let built = std::fs::read(files.join("repo/ron-test_1_all.deb")).unwrap();
    assert!(std::fs::read(apt.join("ron-test_1_all.deb")).unwrap() == built);
}

/// A package, and the list of a repository that has it.
async fn build_repository(files: &Path) {
    let (tree, repo) = (files.join("tree"), files.join("repo"));
    for folder in [&tree.join("DEBIAN"), &repo] {
        std::fs::create_dir_all(folder).unwrap();
    }
    let control = "Package: ron-test\nVersion: 1\nArchitecture: all\nMaintainer: Ann <a@b.test>\n\
                   Description: a test\n";
    std::fs::write(tree.join("DEBIAN/control"), control).unwrap();
    std::fs::write(tree.join("big"), vec![7; MIB]).unwrap();
    let package = repo.join("ron-test_1_all.deb");
    let mut build = client("dpkg-deb");
    build.args(["--root-owner-group", "-Znone", "--build"]).arg(&tree).arg(&package);
    text(build).await;
    let bytes = std::fs::read(&package).unwrap();
    let mut sum = crate::bytes::Checksum::new();
    sum.add(&bytes);
    let entry = format!(
        "{control}Filename: repo/ron-test_1_all.deb\nSize: {}\nSHA256: {}\n",
        bytes.len(),
        sum.hex()
    );
    std::fs::write(repo.join("Packages"), entry).unwrap();
}
