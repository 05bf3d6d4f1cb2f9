//! The header against the Rust types, and the table of errors against their translation.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::mem::offset_of;
use std::path::Path;
use std::process::Command;

use demi_c::types::{self, Accepted, Args, Array, Codec, QResult, Segment};
use libtest_mimic::Failed;

use super::run::Run;
use super::toolchain::{CRATE, LIBRARIES, Tools};

/// The types as C has them.
pub(crate) fn layout(tools: &Tools) -> Result<(), Failed> {
    let theirs = Run::new(tools, "layout", &LIBRARIES[0])?.output()?.stdout;
    let mut ours = String::new();
    macro_rules! describe {
        ($($kind:ty as $name:literal { $($field:ident as $its:literal),* })*) => {
            $(
                writeln!(ours, "{} {}", $name, size_of::<$kind>())?;
                $(
                    let size = size_of_field(|it: &$kind| &raw const it.$field);
                    writeln!(ours, "{}.{} {} {}", $name, $its, offset_of!($kind, $field), size)?;
                )*
            )*
        };
    }
    describe! {
        Segment as "demi_sgaseg_t" { buf as "sgaseg_buf", len as "sgaseg_len" }
        Array as "demi_sgarray_t" {
            buf as "sga_buf", numsegs as "sga_numsegs", segs as "sga_segs", addr as "sga_addr6"
        }
        Accepted as "demi_accept_result_t" { qd as "qd", addr as "addr6" }
        QResult as "demi_qresult_t" {
            opcode as "qr_opcode", qd as "qr_qd", qt as "qr_qt", ret as "qr_ret", value as "qr_value"
        }
        Args as "struct demi_args" { argc as "argc", argv as "argv", callback as "callback" }
        Codec as "struct demi_codec" {
            kind as "kind", length_bytes as "length_bytes", little_endian as "little_endian",
            delimiter_len as "delimiter_len", delimiter as "delimiter"
        }
    }
    writeln!(ours, "sga_addr {}", offset_of!(Array, addr))?;
    writeln!(ours, "word {}", size_of_field(|it: &types::Value| &raw const it.word))?;
    writeln!(ours, "max {}", types::MAX_SEGMENTS)?;
    writeln!(
        ours,
        "opcodes 0 {} {} {} {} 5 {} {} {}",
        types::OPC_PUSH,
        types::OPC_POP,
        types::OPC_ACCEPT,
        types::OPC_CONNECT,
        types::OPC_FAILED,
        types::OPC_MOVED,
        types::OPC_FETCHED
    )?;
    writeln!(ours, "codecs {} {} {}", types::CODEC_LENGTH, types::CODEC_DELIMITER, types::CODEC_RESP)?;
    writeln!(ours, "own {} {} {}", types::SOL_DEMI, types::SO_SEGMENTS, libc::SEEK_DATA)?;
    same(&ours, &theirs)
}

/// The size of what a pointer to a field would point at.
fn size_of_field<T, F>(_: impl FnOnce(&T) -> *const F) -> usize {
    size_of::<F>()
}

/// What is declared and what is there to be linked with.
pub(crate) fn symbols(tools: &Tools) -> Result<(), Failed> {
    let mut declared = BTreeSet::new();
    for header in ["libos.h", "sga.h", "wait.h"] {
        let text = std::fs::read_to_string(Path::new(CRATE).join("../include/demi").join(header))?;
        for line in text.lines().filter(|line| !line.starts_with([' ', '/'])) {
            let name = line.split('(').next().and_then(|before| before.split([' ', '*']).next_back());
            declared.extend(name.filter(|name| name.starts_with("demi_")).map(str::to_owned));
        }
    }
    for library in &LIBRARIES {
        let file = tools.libraries()?.join(format!("libdemi_{library}.so"));
        let output =
            Command::new("nm").args(["--dynamic", "--defined-only", "--format=posix"]).arg(file).output()?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let exported: BTreeSet<String> =
            text.lines().filter_map(|line| line.split(' ').next()).map(str::to_owned).collect();
        if exported != declared {
            let (more, less): (Vec<_>, Vec<_>) =
                (exported.difference(&declared).collect(), declared.difference(&exported).collect());
            return Err(format!("{library}: exported only {more:?}, declared only {less:?}").into());
        }
    }
    Ok(())
}

fn same(ours: &str, theirs: &str) -> Result<(), Failed> {
    for (ours, theirs) in ours.lines().zip(theirs.lines()) {
        if ours != theirs {
            return Err(format!("here {ours:?}, in C {theirs:?}").into());
        }
    }
    if ours.lines().count() == theirs.lines().count() {
        Ok(())
    } else {
        Err(format!("{ours}\n{theirs}").into())
    }
}

/// Every error of the API, as its source has it, is translated, and stands with its errno in the table of `demi.3`.
pub(crate) fn errors() -> Result<(), Failed> {
    let read = |path: &str| std::fs::read_to_string(Path::new(CRATE).join("../..").join(path));
    let (source, translation, page) =
        (read("demi-api/src/error.rs")?, read("shims/c/src/errno.rs")?, read("docs/man/demi.3")?);
    let body = source.split_once("pub enum Error {").ok_or("there is no enum")?.1;
    let names: Vec<&str> = body
        .lines()
        .take_while(|line| *line != "}")
        .filter_map(|line| line.strip_prefix("    "))
        .filter(|line| line.starts_with(|c: char| c.is_ascii_uppercase()))
        .filter_map(|line| line.split([',', '(', ' ']).next())
        .collect();
    if names.len() < 40 {
        return Err(format!("only {names:?}").into());
    }
    for name in names {
        let line = translation.lines().find(|line| {
            line.trim().strip_prefix("Error::").is_some_and(|rest| {
                rest.strip_prefix(name).is_some_and(|behind| behind.starts_with([' ', '(']))
            })
        });
        let line = line.ok_or_else(|| format!("{name} is not translated"))?;
        let errno = line.split_once("libc::").map_or("the cause", |(_, errno)| errno.trim_end_matches(','));
        // A row of the table: errno, name and meaning, with tabs between them.
        let row = page.lines().any(|row| row.starts_with(&format!("{errno}\t{name}\t")));
        if !row && errno != "the cause" {
            return Err(format!("demi.3 lacks {errno} for {name}").into());
        }
    }
    Ok(())
}
