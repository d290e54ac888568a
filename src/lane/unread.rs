//! How many datagrams of a lane QUIC dropped because the lane's driver had not read them yet. Pure.
//!
//! QUIC keeps 512 KiB of unread datagrams, and drops the oldest ones without a report. It counts those that
//! arrived. When its buffer is empty, each datagram that it had counted before, and that the driver did not
//! get, was dropped.

/// Counts the datagrams of one connection.
#[derive(Debug, Default)]
pub(super) struct Unread {
    /// How many had come in at the last look.
    received: u64,
    taken: u64,
    dropped: u64,
}

impl Unread {
    /// QUIC has received so many datagrams in all.
    pub(super) fn received(&mut self, datagrams: u64) {
        self.received = datagrams;
    }

    /// The driver has taken so many more; `all`: there were no others. Returns how many were dropped since the
    /// last call.
    pub(super) fn took(&mut self, datagrams: usize, all: bool) -> u64 {
        self.taken += datagrams as u64;
        if !all {
            return 0;
        }
        let dropped = self.received.saturating_sub(self.taken);
        let news = dropped.saturating_sub(self.dropped);
        self.dropped += news;
        news
    }
}

#[cfg(test)]
mod tests {
    use std::{net::SocketAddr, sync::Arc, time::Duration};

    use bytes::Bytes;
    use noq::{Connection, Endpoint, EndpointConfig, PathId, TokioRuntime};

    use super::*;
    use crate::{
        emulator::{Internet, LinkModel},
        flow::Hint,
        identity::{
            NodeIdentity, server_name,
            test_support::{Overlay, live, real_now},
        },
        transport::{LaneClient, LaneOptions, LaneServer, RerouteMark},
    };

    #[test]
    fn datagrams_under_way_are_not_counted() {
        let mut unread = Unread::default();
        unread.received(40);
        assert_eq!(unread.took(32, false), 0, "the others wait");
        // Two more came after QUIC was asked.
        assert_eq!(unread.took(10, true), 0);
        unread.received(1_000);
        assert_eq!(unread.took(32, false), 0);
        assert_eq!(unread.took(26, true), 900);
        assert_eq!(unread.took(5, true), 0, "and these are counted once");
    }

    /// A lane from the first node to the second.
    async fn lane([entry, exit]: [&NodeIdentity; 2]) -> (Internet, Connection, Connection) {
        let (internet, options) = (Internet::new(1), LaneOptions::default());
        let hosts: [SocketAddr; 2] = [([10, 0, 0, 1], 1).into(), ([10, 0, 0, 2], 2).into()];
        internet.set_both(hosts[0].ip(), hosts[1].ip(), LinkModel::new(Duration::from_millis(5)));
        let (mark, hint) = (Arc::new(RerouteMark::new(Arc::default())), Hint::Latency);
        let (server, client) = (live(exit), live(entry));
        let server = LaneServer::new(&server, options).unwrap();
        let server = server.config(&entry.peer().name, &mark, &hint, options.max_packet);
        let client = LaneClient::new(&client, options).unwrap();
        let client = client.config(&exit.peer().name, &mark, &hint, None, options.max_packet);
        let [here, there] = [(hosts[0], None), (hosts[1], Some(server))].map(|(at, server)| {
            let (socket, tokio) = (internet.attach(at), Arc::new(TokioRuntime));
            let config = EndpointConfig::default();
            Endpoint::new_with_abstract_socket(config, server, socket, tokio).unwrap()
        });
        let name = server_name(&exit.peer().name);
        let connecting = here.connect_with(client, hosts[1], &name).unwrap();
        let accepting = async { there.accept().await.unwrap().await.unwrap() };
        let (client, server) = tokio::join!(connecting, accepting);
        (internet, client.unwrap(), server)
    }

    #[tokio::test(start_paused = true)]
    async fn datagrams_that_nobody_reads_are_bounded_and_counted() {
        const SENT: u64 = 4_000;
        const LEN: usize = 500;
        let overlay = Overlay::new();
        let nodes = ["entry", "exit"].map(|name| overlay.node(name, real_now()));
        let (_internet, client, server) = lane([&nodes[0], &nodes[1]]).await;
        for _ in 0..SENT / 8 {
            (0..8).for_each(|_| client.send_datagram(vec![7; LEN].into()).unwrap());
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
        let came = server.path_stats(PathId::ZERO).unwrap().frame_rx.datagram;
        assert_eq!(came, SENT, "the path loses none");
        let mut unread = Unread::default();
        unread.received(came);
        let (mut frames, mut taken, mut dropped) = (vec![Bytes::new(); 32], 0, 0);
        while dropped == 0 {
            let count = server.read_many_datagrams(&mut frames).await.unwrap();
            taken += count as u64;
            dropped = unread.took(count, count < frames.len());
        }
        assert_eq!(taken + dropped, SENT);
        assert!(taken * LEN as u64 <= 512 << 10 && taken > 900, "{taken}");
    }
}
