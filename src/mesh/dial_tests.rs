//! What failing dials write.

use std::{io, sync::Mutex};

use super::*;
use crate::lab::{Lab, Services};

#[derive(Clone, Default)]
struct Written(Arc<Mutex<Vec<u8>>>);

impl io::Write for Written {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().map_err(|_| io::ErrorKind::Other)?.extend(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[tokio::test(start_paused = true)]
async fn addresses_that_cannot_be_dialled_make_one_line_a_minute() {
    let lab = Lab::triangle(Services::default()).await.unwrap();
    let mesh = lab.node("entry").unwrap().mesh().clone();
    let written = Written::default();
    let writer = written.clone();
    let log = tracing_subscriber::fmt().with_writer(move || writer.clone()).finish();
    let _log = tracing::subscriber::set_default(log);
    for number in 0..=180 {
        let address = SocketAddr::from(([192, 0, 2, number], 0));
        assert!(mesh.dial_at("exit".parse().unwrap(), address).await.is_none());
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    let text = String::from_utf8(written.0.lock().unwrap().clone()).unwrap();
    let lines: Vec<_> = text.lines().filter(|line| line.contains("cannot dial")).collect();
    assert_eq!(lines.len(), 4, "{lines:#?}");
    assert!(lines[3].contains("59"), "{}", lines[3]);
}
