//! The TCP connections of programs, and the addresses under which they come back to this process. PURE.
//!
//! The kernel itself speaks TCP at both ends. A packet to a destination gets the source [`Ends::far`] with a port that
//! stands for the connection, and the address of a listener of ours as its destination; then it is given back to the
//! kernel, which takes it for one of a connection to the listener. Packets of the listener get the opposite treatment.

use std::{
    collections::{HashMap, VecDeque},
    net::{IpAddr, SocketAddr},
};

use super::packet::Headers;

/// Connections at once. As many as half of what an entry serves by default (4,096), so that one program cannot use
/// all of it. The packets that would open more are dropped, and TCP repeats them.
pub(super) const MOST: usize = 2_048;

/// Ports that stand for connections: live ones, and ended ones whose last packets may still be repeated.
const PORTS: usize = 8_192;

/// The first port that stands for a connection.
const FIRST_PORT: u16 = 1_024;

/// The addresses of one family between which connections come back.
#[derive(Debug, Clone, Copy)]
pub(super) struct Ends {
    /// Where we listen.
    pub(super) listener: SocketAddr,
    /// From where connections seem to come.
    pub(super) far: IpAddr,
}

/// A program's socket and its destination.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Pair {
    from: SocketAddr,
    to: SocketAddr,
}

#[derive(Debug)]
struct Session {
    pair: Pair,
    state: State,
}

#[derive(Debug, PartialEq, Eq)]
enum State {
    /// The exit has been asked. The packet that opens the connection waits.
    Asked { opening: Vec<u8> },
    /// The packets pass.
    Open,
    /// No flow belongs to it any more. The last packets still pass.
    Ended,
}

/// What becomes of a packet.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It has new addresses, and goes back to the kernel.
    Pass,
    /// The destination is to be asked for; this port stands for the connection.
    Ask(u16),
    /// Its sender gets a reset.
    Refuse,
    /// It is dropped.
    Drop,
}

/// All connections of one namespace.
#[derive(Debug, Default)]
pub(super) struct Sessions {
    ports: HashMap<Pair, u16>,
    sessions: HashMap<u16, Session>,
    /// In the order in which they ended.
    ended: VecDeque<u16>,
    next: u16,
}

impl Sessions {
    /// Decides about a TCP packet, and gives it new addresses if it passes.
    pub(super) fn on_packet(
        &mut self,
        ends: &Ends,
        headers: &Headers,
        packet: &mut [u8],
    ) -> Verdict {
        if headers.to.ip() == ends.far {
            return self.on_answer(ends, headers, packet);
        }
        let pair = Pair { from: headers.from, to: headers.to };
        let opens = headers.opens(packet);
        let port = self.ports.get(&pair).copied();
        match port.and_then(|port| Some((port, self.sessions.get_mut(&port)?))) {
            Some((_, Session { state: State::Asked { opening }, .. })) => {
                // The newest repetition is what the program's system expects an answer to.
                if opens {
                    *opening = packet.to_vec();
                }
                Verdict::Drop
            }
            Some((port, session)) if !(opens && session.state == State::Ended) => {
                headers.readdress(packet, SocketAddr::new(ends.far, port), ends.listener);
                Verdict::Pass
            }
            _ if opens => self.ask(pair, packet),
            _ => Verdict::Refuse,
        }
    }

    /// A packet of our listener.
    fn on_answer(&self, ends: &Ends, headers: &Headers, packet: &mut [u8]) -> Verdict {
        match self.sessions.get(&headers.to.port()) {
            Some(Session { pair, .. })
                if headers.from == ends.listener && pair.from.is_ipv4() == ends.far.is_ipv4() =>
            {
                headers.readdress(packet, pair.to, pair.from);
                Verdict::Pass
            }
            _ => Verdict::Drop,
        }
    }

    fn ask(&mut self, pair: Pair, packet: &[u8]) -> Verdict {
        if self.live() >= MOST {
            return Verdict::Drop;
        }
        if self.sessions.len() >= PORTS
            && let Some(oldest) = self.ended.pop_front()
        {
            self.forget(oldest);
        }
        let port = loop {
            self.next = self.next.checked_add(1).unwrap_or(FIRST_PORT).max(FIRST_PORT);
            if !self.sessions.contains_key(&self.next) {
                break self.next;
            }
        };
        self.ports.insert(pair, port);
        self.sessions
            .insert(port, Session { pair, state: State::Asked { opening: packet.to_vec() } });
        Verdict::Ask(port)
    }

    /// Takes the packet that opens a connection, as the exit has answered. The session is open from now on.
    pub(super) fn answered(&mut self, port: u16) -> Option<Vec<u8>> {
        let session = self.sessions.get_mut(&port)?;
        match std::mem::replace(&mut session.state, State::Open) {
            State::Asked { opening } => Some(opening),
            other => {
                session.state = other;
                None
            }
        }
    }

    /// No flow belongs to the session any more.
    pub(super) fn end(&mut self, port: u16) {
        if let Some(session) = self.sessions.get_mut(&port)
            && session.state != State::Ended
        {
            session.state = State::Ended;
            self.ended.push_back(port);
        }
    }

    fn live(&self) -> usize {
        self.sessions.len() - self.ended.len()
    }

    fn forget(&mut self, port: u16) {
        if let Some(session) = self.sessions.remove(&port)
            // The same pair may have a new session.
            && self.ports.get(&session.pair) == Some(&port)
        {
            self.ports.remove(&session.pair);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exec::packet::opening_packet;

    fn ends() -> Ends {
        Ends { listener: "198.18.0.1:6000".parse().unwrap(), far: "198.18.0.2".parse().unwrap() }
    }

    fn program(port: u16) -> SocketAddr {
        SocketAddr::new("198.18.0.1".parse().unwrap(), port)
    }

    fn web() -> SocketAddr {
        "192.0.2.7:80".parse().unwrap()
    }

    /// Sends a packet through, and says what became of it and where it then goes.
    fn send(
        sessions: &mut Sessions,
        from: SocketAddr,
        to: SocketAddr,
        opens: bool,
    ) -> (Verdict, Headers) {
        let mut packet = opening_packet(from, to, opens);
        let headers = Headers::read(&packet).unwrap();
        let verdict = sessions.on_packet(&ends(), &headers, &mut packet);
        (verdict, Headers::read(&packet).unwrap())
    }

    fn asked(sessions: &mut Sessions, port: u16) -> u16 {
        match send(sessions, program(port), web(), true).0 {
            Verdict::Ask(stands) => stands,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_connection_waits_for_the_exit_and_then_comes_back_to_us() {
        let mut sessions = Sessions::default();
        let port = asked(&mut sessions, 40_000);
        assert_eq!(send(&mut sessions, program(40_000), web(), true).0, Verdict::Drop, "repeated");
        let opening = sessions.answered(port).unwrap();
        assert_eq!(Headers::read(&opening).unwrap().to, web());
        assert_eq!(sessions.answered(port), None);

        let (verdict, passed) = send(&mut sessions, program(40_000), web(), true);
        let far = SocketAddr::new(ends().far, port);
        assert_eq!((verdict, passed.from, passed.to), (Verdict::Pass, far, ends().listener));
        let (verdict, answer) = send(&mut sessions, ends().listener, far, false);
        assert_eq!((verdict, answer.from, answer.to), (Verdict::Pass, web(), program(40_000)));
    }

    #[test]
    fn packets_of_no_connection_are_refused_or_dropped() {
        let mut sessions = Sessions::default();
        assert_eq!(send(&mut sessions, program(1), web(), false).0, Verdict::Refuse);
        let far = SocketAddr::new(ends().far, 5_000);
        assert_eq!(send(&mut sessions, ends().listener, far, false).0, Verdict::Drop);
        let port = asked(&mut sessions, 40_000);
        let far = SocketAddr::new(ends().far, port);
        assert_eq!(
            send(&mut sessions, program(9), far, false).0,
            Verdict::Drop,
            "not our listener"
        );
    }

    #[test]
    fn an_ended_connections_last_packets_pass_and_a_new_one_is_asked_for() {
        let mut sessions = Sessions::default();
        let port = asked(&mut sessions, 40_000);
        sessions.answered(port).unwrap();
        sessions.end(port);
        sessions.end(port);
        assert_eq!(sessions.live(), 0);
        assert_eq!(send(&mut sessions, program(40_000), web(), false).0, Verdict::Pass);
        let again = asked(&mut sessions, 40_000);
        assert_ne!(port, again);
        let far = SocketAddr::new(ends().far, port);
        assert_eq!(send(&mut sessions, ends().listener, far, false).0, Verdict::Pass);
    }

    #[test]
    fn too_many_connections_wait_until_others_end() {
        let mut sessions = Sessions::default();
        let ports: Vec<u16> =
            (0..MOST).map(|at| asked(&mut sessions, at.try_into().unwrap())).collect();
        assert_eq!(send(&mut sessions, program(40_000), web(), true).0, Verdict::Drop);
        sessions.end(ports[5]);
        asked(&mut sessions, 40_000);
        assert_eq!(send(&mut sessions, program(40_001), web(), true).0, Verdict::Drop);
    }

    #[test]
    fn ended_connections_are_forgotten_in_order() {
        let mut sessions = Sessions::default();
        for round in 0..3 * PORTS {
            let port = asked(&mut sessions, (round % 60_000).try_into().unwrap());
            sessions.end(port);
        }
        assert_eq!((sessions.sessions.len(), sessions.live()), (PORTS, 0));
        assert!(sessions.ports.len() <= PORTS && sessions.ended.len() <= PORTS);
    }
}
