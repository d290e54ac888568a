//! ssh and apt-get, which are run as on any machine.

use std::path::Path;

use crate::{
    bytes::MIB,
    server::Server,
    sshd,
    stage::{Stage, WEB},
    tools::{client, have, text},
};

#[tokio::test(flavor = "multi_thread")]
async fn ssh_carries_four_mebibytes_through_the_exit() {
    let Some(stage) = Stage::set() else { return };
    if !sshd::is_here() {
        return;
    }
    let server = sshd::start(&stage.site).await;
    let (port, key) = (server.port.to_string(), server.key.to_str().unwrap());
    let options = ["ssh", "-F", "none", "-o", "BatchMode=yes", "-o", "StrictHostKeyChecking=no"];
    let quiet = ["-o", "UserKnownHostsFile=/dev/null", "-o", "LogLevel=ERROR", "-i", key];
    let program = [&options[..], &quiet, &["-p", &port, WEB, "sha256sum"]].concat();
    sshd::sum_four_mebibytes(stage.exec(&[], &program)).await;
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
