//! The web server of the benchmark: nginx where it is installed, else one of our own.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    process::{Child, Stdio},
    rc::Rc,
    thread,
};

use tempfile::TempDir;

use crate::{hosts::Host, run::free_port};

pub(crate) struct Server {
    host: Rc<Host>,
    port: u16,
    folder: TempDir,
    nginx: Option<Child>,
}

impl Server {
    /// Serves `/big` of so many MiB, `/N` of N bytes for each of these numbers, and `/small`.
    pub(crate) fn start(host: &Rc<Host>, mib: usize, sizes: &[usize]) -> Self {
        let folder = tempfile::Builder::new().prefix("ronbench").tempdir().unwrap();
        let port = free_port();
        let www = folder.path().join("www");
        fs::create_dir(&www).unwrap();
        // World-readable: nginx's workers run as another user.
        let _ = host.command("chmod").arg("755").arg(folder.path()).status();
        fs::write(www.join("small"), b"x").unwrap();
        let file = |name: &str, size: usize| {
            fs::File::create(www.join(name)).unwrap().set_len(size as u64).unwrap();
        };
        file("big", mib << 20);
        sizes.iter().for_each(|size| file(&size.to_string(), *size));
        let base = folder.path().display();
        let conf = format!(
            "worker_processes 1; pid {base}/nginx.pid; error_log {base}/error.log; daemon off;
             events {{ worker_connections 4096; }}
             http {{ access_log off; sendfile on;
               server {{ listen {}:{port}; root {base}/www; }} }}",
            host.ip
        );
        let conf_path = folder.path().join("nginx.conf");
        fs::write(&conf_path, conf).unwrap();
        let installed = host.command("nginx").arg("-v").stderr(Stdio::null()).status();
        let nginx = installed.is_ok_and(|status| status.success()).then(|| {
            host.command("nginx").arg("-c").arg(&conf_path).stderr(Stdio::null()).spawn().unwrap()
        });
        if nginx.is_none() {
            println!("nginx is not installed: using a server of our own");
            let listener = TcpListener::bind((host.ip, port)).unwrap();
            thread::spawn(move || serve(&listener, mib));
        }
        host.wait_for_port(port);
        Self { host: host.clone(), port, folder, nginx }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}/big", self.address())
    }

    pub(crate) fn address(&self) -> SocketAddr {
        (self.host.ip, self.port).into()
    }

    /// Its process, if it has one of its own.
    pub(crate) fn process(&self) -> Option<&Child> {
        self.nginx.as_ref()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(nginx) = &mut self.nginx {
            // Its worker ends with it in this way only.
            let conf = self.folder.path().join("nginx.conf");
            let _ = self.host.command("nginx").arg("-c").arg(conf).args(["-s", "stop"]).status();
            let _ = nginx.wait();
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
    let wanted = String::from_utf8_lossy(&request[..read]);
    let length = match wanted.split([' ', '/']).nth(2) {
        Some("big") => mib << 20,
        name => name.and_then(|name| name.parse().ok()).unwrap_or(1),
    };
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
