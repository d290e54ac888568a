//! Fuzzing on stable Rust, for the tests beside each decoder.
//!
//! Inputs are mutations of valid seeds, and random bytes. They follow from one seed, so a run can be
//! repeated: `RON_FUZZ_SEED=7 cargo test fuzz`. A decoder is tried for a second;
//! `RON_FUZZ_SECONDS=60` tries longer. An input that fails is written to `tests/hostile/cases/NAME/`
//! and tried first from then on.

mod config;
mod dashboard;
mod entry;
mod identity;
mod wire;

use std::{
    fs,
    net::SocketAddr,
    panic::{AssertUnwindSafe, catch_unwind},
    path::PathBuf,
    time::{Duration, Instant},
};

use rand::{Rng as _, RngExt as _, SeedableRng as _, seq::IndexedRandom as _};
use rand_pcg::Pcg64Mcg;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};

/// The longest input: a little more than a message on a link may have.
const LONGEST: usize = 70_000;

/// Most mutations of one input. Few keep it nearly valid, so that it gets past the first check.
const MOST_MUTATIONS: usize = 8;

/// A client that has sent all it will send gets its answer, or the end, within this time.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);

/// Numbers at which length fields break: the ends of varints, and of the integer types.
const NUMBERS: [&[u8]; 7] = [
    &[0xff, 0xff, 0xff, 0xff, 0x0f],
    &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01],
    &[0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80],
    &[0x80, 0x80, 0x04],
    &[0xff, 0xff],
    &[0x00, 0x00, 0x00, 0x00],
    &[0x84, 0xff, 0xff, 0xff, 0xff],
];

/// A decoder under test.
pub(crate) struct Fuzz {
    name: &'static str,
    seeds: Vec<Vec<u8>>,
    words: &'static [&'static [u8]],
    most_heap: u64,
}

impl Fuzz {
    /// Inputs grown from these valid ones; `name` is the folder of the cases.
    pub(crate) fn new(name: &'static str, seeds: impl IntoIterator<Item = Vec<u8>>) -> Self {
        Self { name, seeds: seeds.into_iter().collect(), words: &[], most_heap: 4 << 20 }
    }

    /// Words of the format that are inserted as they are.
    pub(crate) fn with_words(self, words: &'static [&'static [u8]]) -> Self {
        Self { words, ..self }
    }

    /// Tries `decode` with the known cases, then with new inputs until the time is over. Fails if
    /// it panics, or holds more than 4 MiB of heap at once.
    pub(crate) fn run(self, mut decode: impl FnMut(&[u8])) {
        for case in self.cases() {
            self.try_one(&case, &mut decode);
        }
        let seed = number_from("RON_FUZZ_SEED").unwrap_or_else(rand::random);
        let until =
            Instant::now() + Duration::from_secs(number_from("RON_FUZZ_SECONDS").unwrap_or(1));
        let mut rng = Pcg64Mcg::seed_from_u64(seed);
        let mut count = 0_u64;
        // The failed assertion shows this line.
        eprintln!("fuzzing {}: RON_FUZZ_SEED={seed}", self.name);
        while Instant::now() < until {
            let input = self.input(&mut rng);
            self.try_one(&input, &mut decode);
            count += 1;
        }
        assert!(count > 0, "no input was tried");
        eprintln!("fuzzing {}: {count} inputs", self.name);
    }

    fn try_one(&self, input: &[u8], decode: &mut impl FnMut(&[u8])) {
        let mut outcome = Ok(());
        let heap = allocation_counter::measure(|| {
            outcome = catch_unwind(AssertUnwindSafe(|| decode(input)));
        });
        let failure = match outcome {
            Err(_) => "it panicked",
            Ok(()) if heap.bytes_max > self.most_heap => "it took too much memory",
            Ok(()) => return,
        };
        let path = self.keep(input);
        panic!("{} with the input in {}: {failure}", self.name, path.display());
    }

    fn folder(&self) -> PathBuf {
        PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/hostile/cases").join(self.name)
    }

    fn cases(&self) -> Vec<Vec<u8>> {
        let entries = fs::read_dir(self.folder()).into_iter().flatten().flatten();
        let mut paths: Vec<_> = entries.map(|entry| entry.path()).collect();
        paths.sort();
        paths.iter().map(|path| fs::read(path).unwrap()).collect()
    }

    fn keep(&self, input: &[u8]) -> PathBuf {
        let folder = self.folder();
        fs::create_dir_all(&folder).unwrap();
        let digest = ring::digest::digest(&ring::digest::SHA256, input);
        let name: String = digest.as_ref()[..8].iter().map(|byte| format!("{byte:02x}")).collect();
        let path = folder.join(name);
        fs::write(&path, input).unwrap();
        path
    }

    fn input(&self, rng: &mut Pcg64Mcg) -> Vec<u8> {
        if self.seeds.is_empty() || rng.random_ratio(1, 16) {
            let mut bytes = vec![0; rng.random_range(0..512)];
            rng.fill_bytes(&mut bytes);
            return bytes;
        }
        let mut bytes = self.seeds.choose(rng).cloned().unwrap_or_default();
        for _ in 0..rng.random_range(1..=MOST_MUTATIONS) {
            self.mutate(&mut bytes, rng);
        }
        bytes.truncate(LONGEST);
        bytes
    }

    fn mutate(&self, bytes: &mut Vec<u8>, rng: &mut Pcg64Mcg) {
        let at = rng.random_range(0..=bytes.len());
        let end = (at + rng.random_range(1..=16)).min(bytes.len());
        match rng.random_range(0..9) {
            0 => flip(bytes, at, rng),
            1 => drop(bytes.drain(at..end)),
            2 => bytes.truncate(at),
            3 => insert(bytes, at, &rng.random::<[u8; 4]>()),
            4 => insert(bytes, at, NUMBERS.choose(rng).copied().unwrap_or_default()),
            5 => {
                let piece = bytes[at..end].to_vec();
                let times = 1 << rng.random_range(0..10);
                insert(bytes, end, &piece.repeat(times));
            }
            6 => {
                let other = self.seeds.choose(rng).cloned().unwrap_or_default();
                let from = rng.random_range(0..=other.len());
                bytes.truncate(at);
                bytes.extend_from_slice(&other[from..]);
            }
            7 if at < bytes.len() => {
                bytes[at] = *[0, 1, 0x7f, 0x80, 0xff].choose(rng).unwrap_or(&0)
            }
            _ => insert(bytes, at, self.words.choose(rng).copied().unwrap_or(b"\0")),
        }
    }
}

/// What a port answers to a client that sends these bytes and the end. Fails if the client waits for
/// ever.
async fn answer(port: SocketAddr, bytes: &[u8]) -> Vec<u8> {
    let (mut read, mut write) = TcpStream::connect(port).await.unwrap().into_split();
    // The port may close before it has read all, and reset what it has not read.
    let writing = async {
        let _ = write.write_all(bytes).await;
        let _ = write.shutdown().await;
    };
    let mut answer = Vec::new();
    let both = async { tokio::join!(writing, read.read_to_end(&mut answer)).1 };
    let _ = timeout(ANSWER_WITHIN, both).await.expect("the client waits for ever");
    answer
}

fn flip(bytes: &mut [u8], at: usize, rng: &mut Pcg64Mcg) {
    if let Some(byte) = bytes.get_mut(at) {
        *byte ^= 1 << rng.random_range(0..8);
    }
}

fn insert(bytes: &mut Vec<u8>, at: usize, piece: &[u8]) {
    if bytes.len() + piece.len() <= LONGEST {
        bytes.splice(at..at, piece.iter().copied());
    }
}

fn number_from(variable: &str) -> Option<u64> {
    std::env::var(variable).ok()?.parse().ok()
}

#[test]
fn equal_seeds_make_equal_inputs() {
    let inputs = || {
        let fuzz = Fuzz::new("itself", [b"seed".to_vec()]);
        let mut rng = Pcg64Mcg::seed_from_u64(7);
        (0..1_000).map(|_| fuzz.input(&mut rng)).collect::<Vec<_>>()
    };
    assert_eq!(inputs(), inputs());
}
