//! Seeds made from a seed and a label, stable across platforms and compiler releases.

use std::net::IpAddr;

use rand::SeedableRng;
use rand_pcg::Pcg64Mcg;

/// FNV-1a over `bytes`, continued from `before`.
pub(super) fn fold(before: u64, bytes: &[u8]) -> u64 {
    bytes.iter().fold(before ^ 0xcbf2_9ce4_8422_2325, |hash, &byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

/// A seed for the part of the emulator that `label` names.
///
/// FNV-1a over the label (the standard library's hasher may change between releases), spread by
/// the finaliser of SplitMix64, so that neighbouring labels give unrelated seeds.
pub(super) fn derive(seed: u64, label: &[u8]) -> u64 {
    let folded = fold(seed, label);
    let mixed = (folded ^ (folded >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

/// A seed for one directed pair of hosts.
pub(super) fn derive_pair(seed: u64, from: IpAddr, to: IpAddr) -> u64 {
    derive_host(derive_host(seed, from), to)
}

/// A seed for one host.
pub(super) fn derive_host(seed: u64, host: IpAddr) -> u64 {
    match host {
        IpAddr::V4(v4) => derive(seed, &v4.octets()),
        IpAddr::V6(v6) => derive(seed, &v6.octets()),
    }
}

/// The generator that starts from this seed.
pub(super) fn rng(seed: u64) -> Pcg64Mcg {
    Pcg64Mcg::seed_from_u64(seed)
}
