//! The 64-bit CRC at the end of a payload: the Jones polynomial, reflected, from 0, without a
//! final inversion. Its check value over "123456789" is `e9c6d914c4b8d9ca`.

/// The polynomial with its bits reversed.
const POLYNOMIAL: u64 = 0x95ac_9329_ac4b_c9b5;

/// What each byte does to the remainder, 1 to 8 bytes from the end of a block of 8.
static TABLES: [[u64; 256]; 8] = tables();

const fn tables() -> [[u64; 256]; 8] {
    let mut tables = [[0; 256]; 8];
    let mut byte = 0;
    while byte < 256 {
        let mut rest = byte as u64;
        let mut bit = 0;
        while bit < 8 {
            rest = if rest & 1 == 1 { rest >> 1 ^ POLYNOMIAL } else { rest >> 1 };
            bit += 1;
        }
        tables[0][byte] = rest;
        byte += 1;
    }
    let mut table = 1;
    while table < 8 {
        let mut byte = 0;
        while byte < 256 {
            let rest = tables[table - 1][byte];
            tables[table][byte] = rest >> 8 ^ tables[0][(rest & 0xff) as usize];
            byte += 1;
        }
        table += 1;
    }
    tables
}

/// The checksum of `bytes`.
pub(super) fn crc64(bytes: &[u8]) -> u64 {
    let (blocks, tail) = bytes.as_chunks::<8>();
    let mut crc = 0u64;
    for block in blocks {
        crc ^= u64::from_le_bytes(*block);
        let places = crc.to_le_bytes().into_iter().zip(TABLES.iter().rev());
        crc = places.fold(0, |sum, (byte, table)| sum ^ table[usize::from(byte)]);
    }
    for byte in tail {
        crc = crc >> 8 ^ TABLES[0][usize::from(crc as u8 ^ byte)];
    }
    crc
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_and_single_bytes_agree_with_the_check_value() {
        assert_eq!(crc64(b"123456789"), 0xe9c6_d914_c4b8_d9ca);
        assert_eq!(crc64(b""), 0);
        let bytes: Vec<u8> = (0..1000u32).map(|n| (n * 37) as u8).collect();
        let mut crc = 0;
        for byte in &bytes {
            crc = crc >> 8 ^ TABLES[0][usize::from(crc as u8 ^ byte)];
        }
        assert_eq!(crc64(&bytes), crc);
    }
}
