//! The fields of superblock, checkpoint and record, as `docs/log-format.md` names them.

use std::io::{self, Write};

use demi_libos_cattree::format::{Checkpoint, Header};

/// Offset, size and name.
type Field = (usize, usize, &'static str);

pub(crate) const SUPERBLOCK: &[Field] = &[
    (0, 8, "magic"),
    (8, 4, "version"),
    (12, 4, "block_size"),
    (16, 4, "segment_size"),
    (20, 4, "segments"),
    (24, 4, "checkpoint_blocks"),
    (28, 4, "max_logs"),
    (32, 4, "reserve"),
    (40, 16, "identity"),
    (56, 8, "generation"),
    (64, 8, "newest complete checkpoint"),
    (124, 4, "CRC-32C"),
];

pub(crate) const CHECKPOINT: &[Field] = &[
    (0, 8, "magic"),
    (8, 4, "CRC-32C"),
    (12, 4, "length"),
    (16, 8, "number"),
    (24, 8, "first half of the identity"),
    (32, 4, "highest epoch"),
    (36, 4, "logs"),
    (40, 8, "next sequence number"),
    (48, 4, "next log's number"),
    (52, 4, "segments set aside"),
    (56, 4, "closed in order"),
];

const LOG: &[Field] = &[
    (0, 4, "number of the log"),
    (4, 4, "segments"),
    (8, 8, "head"),
    (16, 8, "tail"),
    (24, 8, "ordinal of its first segment"),
    (32, 4, "epoch"),
    (36, 2, "length of the name"),
];

/// Prints the fields of a structure that begins at `at` on the device with `bytes`.
pub(crate) fn print(out: &mut dyn Write, at: u64, bytes: &[u8], fields: &[Field]) -> io::Result<()> {
    for (offset, size, name) in fields {
        let Some(bytes) = bytes.get(*offset..offset + size) else { return Ok(()) };
        write!(out, "  {:>12} {name}: ", at + *offset as u64)?;
        match size {
            _ if *name == "magic" => writeln!(out, "{}", bytes.escape_ascii())?,
            _ if *name == "CRC-32C" => writeln!(out, "{:#010x}", number(bytes))?,
            0..=8 => writeln!(out, "{}", number(bytes))?,
            _ => {
                bytes.iter().try_for_each(|byte| write!(out, "{byte:02x}"))?;
                writeln!(out)?;
            }
        }
    }
    Ok(())
}

/// What is behind the header of a checkpoint that is valid.
pub(crate) fn print_checkpoint(
    out: &mut dyn Write,
    at: u64,
    bytes: &[u8],
    checkpoint: &Checkpoint,
) -> io::Result<()> {
    let mut offset = Checkpoint::HEADER_LEN;
    for (place, index) in checkpoint.set_aside.iter().enumerate() {
        writeln!(out, "  {:>12} set aside: {index}", at + (offset + 4 * place) as u64)?;
    }
    offset += (4 * checkpoint.set_aside.len()).next_multiple_of(8);
    for log in &checkpoint.logs {
        writeln!(out, "  log {:?}", String::from_utf8_lossy(&log.name))?;
        print(out, at + offset as u64, bytes.get(offset..).unwrap_or_default(), LOG)?;
        offset += 40 + log.name.len().next_multiple_of(8);
        for segment in &log.segments {
            writeln!(
                out,
                "  {:>12} segment: sequence number {}, index {}",
                at + offset as u64,
                segment.sequence,
                segment.index
            )?;
            offset += 16;
        }
    }
    Ok(())
}

/// A record's header, in a line.
pub(crate) fn print_header(
    out: &mut dyn Write,
    log: &str,
    position: u64,
    offset: u64,
    header: &Header,
) -> io::Result<()> {
    let Header { kind, ends_batch, lead, length, total, sequence, epoch, stable, payload_crc, .. } = header;
    writeln!(
        out,
        "record of {log:?} at position {position}, byte {offset}: kind {} ({kind:?}), length {length}, total {total}, \
         log {}, sequence number {sequence}, offset {}, epoch {epoch}, stable {stable}, flags {}, lead {lead}, \
         payload's CRC-32C {payload_crc:#010x}",
        *kind as u8,
        header.log,
        header.offset,
        u8::from(*ends_batch),
    )
}

fn number(bytes: &[u8]) -> u64 {
    bytes.iter().rev().fold(0, |number, byte| number << 8 | u64::from(*byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_little_endian() {
        assert_eq!((number(&[1, 2]), number(&[0; 8]), number(&[255; 8])), (513, 0, u64::MAX));
    }
}
