//! One stable 64-bit hash for everything whose order or place must be the same on
//! every node and in every release: XXH3 (<https://xxhash.com>).

/// XXH3-64 of `bytes` with `seed`.
#[inline]
pub fn hash64(seed: u64, bytes: &[u8]) -> u64 {
    xxhash_rust::xxh3::xxh3_64_with_seed(bytes, seed)
}

/// The checksum of everything that is written to a disk or a wire: XXH3-64, seed 0.
#[inline]
pub fn checksum(bytes: &[u8]) -> u64 {
    xxhash_rust::xxh3::xxh3_64(bytes)
}
