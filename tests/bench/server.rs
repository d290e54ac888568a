//! The web server of the benchmark: nginx where it is installed, else one of our own.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    process::Command,
    thread,
};

use tempfile::TempDir;

use crate::run::{free_port, wait_for_port};

pub(crate) struct Server {
    port: u16,
    folder: TempDir,
    nginx: bool,
}

impl Server {
    /// Serves `/big` of so many MiB and `/small`.
    pub(crate) fn start(mib: usize) -> Self {
        let folder = tempfile::Builder::new().prefix("ronbench").tempdir().unwrap();
        let port = free_port();
        let www = folder.path().join("www");
        fs::create_dir(&www).unwrap();
        // World-readable: nginx's workers run as another user.
        let _ = Command::new("chmod").arg("755").arg(folder.path()).status();
        fs::write(www.join("small"), b"x").unwrap();
        fs::File::create(www.join("big")).unwrap().set_len((mib as u64) << 20).unwrap();
        let base = folder.path().display();
        let conf = format!(
            "worker_processes 1; pid {base}/nginx.pid; error_log {base}/error.log; daemon on;
             events {{ worker_connections 4096; }}
             http {{ access_log off; sendfile on;
               server {{ listen 127.0.0.1:{port}; root {base}/www; }} }}"
        );
        let conf_path = folder.path().join("nginx.conf");
        fs::write(&conf_path, conf).unwrap();
        let started = Command::new("nginx").arg("-c").arg(&conf_path).status();
        let nginx = started.is_ok_and(|status| status.success());
        if !nginx {
            println!("nginx is not installed: using a server of our own");
            let listener = TcpListener::bind(("127.0.0.1", port)).unwrap();
            thread::spawn(move || serve(&listener, mib));
        }
        wait_for_port(port);
        Self { port, folder, nginx }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://127.0.0.1:{}/big", self.port)
    }

    pub(crate) fn address(&self) -> SocketAddr {
        ([127, 0, 0, 1], self.port).into()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if self.nginx {
            let conf = self.folder.path().join("nginx.conf");
            let _ = Command::new("nginx").arg("-c").arg(conf).args(["-s", "stop"]).status();
        }
    }
}

fn serve(listener: &TcpListener, mib: usize) {
    for stream in listener.incoming().flatten() {
        thread::spawn(move || answer(stream, mib));
    }
}

fn answer(mut stream: TcpStream, mib: usize) {
    let mut request = [0; 1024];
    let Ok(read) = stream.read(&mut request) else { return };
    let big = request[..read].starts_with(b"GET /big");
    let length = if big { mib << 20 } else { 1 };
    let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n");
    let mut sent = stream.write_all(head.as_bytes());
    let block = vec![0; 256 << 10];
    let mut left = length;
    while sent.is_ok() && left > 0 {
        let part = left.min(block.len());
        sent = stream.write_all(&block[..part]);
        left -= part;
    }
}

/// A server that accepts and never says anything; where it listens.
pub(crate) fn silent() -> SocketAddr {
    let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        let _open: Vec<_> = listener.incoming().flatten().collect();
    });
    address
}
