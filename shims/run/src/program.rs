//! Whether a program will take a library that is preloaded.

use std::ffi::OsStr;
use std::fs::File;
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};

/// Scripts that are run by scripts, at the most.
const SCRIPTS: usize = 4;

/// Program headers that are looked at: no real program has more than a few dozen.
const HEADERS: u16 = 1024;

/// The file that a command's first word names, as the shell would find it.
pub(crate) fn find(name: &OsStr) -> anyhow::Result<PathBuf> {
    if name.as_bytes().contains(&b'/') {
        return Ok(PathBuf::from(name));
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path)
        .map(|folder| folder.join(name))
        .find(|file| file.metadata().is_ok_and(|data| data.is_file() && data.mode() & 0o111 != 0));
    found.with_context(|| format!("{}: no such program in PATH", name.display()))
}

/// Refuses, with the reason, what the loader would run without the library.
pub(crate) fn check(path: &Path) -> anyhow::Result<()> {
    let mut path = path.to_owned();
    for _ in 0..=SCRIPTS {
        let file = File::open(&path).with_context(|| format!("{} cannot be read", path.display()))?;
        check_rights(&path, &file)?;
        match interpreter(&file)? {
            Some(next) => path = next,
            None => return check_elf(&file),
        }
    }
    bail!("it is a script of scripts, more than {SCRIPTS} deep")
}

/// Whoever changes identity with a program must not be told by its caller what to load.
fn check_rights(path: &Path, file: &File) -> anyhow::Result<()> {
    let data = file.metadata()?;
    let user = rustix::process::geteuid().as_raw();
    let group = rustix::process::getegid().as_raw();
    if data.mode() & 0o4000 != 0 && data.uid() != user {
        bail!("it is setuid: the loader ignores LD_PRELOAD for it; run it as its owner, user {}", data.uid());
    }
    if data.mode() & 0o2000 != 0 && data.gid() != group {
        bail!("it is setgid: the loader ignores LD_PRELOAD for it; run it as group {}", data.gid());
    }
    let has_capabilities = rustix::fs::getxattr(path, "security.capability", &mut [0u8; 64]).is_ok();
    if has_capabilities && user != 0 {
        bail!(
            "it has capabilities of its own: the loader ignores LD_PRELOAD for it; run it as root, or take them away with `setcap -r`"
        );
    }
    Ok(())
}

/// Who runs the file, if it is a script.
fn interpreter(file: &File) -> anyhow::Result<Option<PathBuf>> {
    let mut line = Vec::new();
    file.take(256).read_to_end(&mut line)?;
    let Some(rest) = line.strip_prefix(b"#!") else { return Ok(None) };
    let rest = rest.split(|byte| *byte == b'\n').next().unwrap_or_default();
    let mut words = rest.split(u8::is_ascii_whitespace).filter(|word| !word.is_empty());
    let first = words.next().context("it is a script that does not say who is to run it")?;
    if first.ends_with(b"/env")
        && let Some(name) = words.find(|word| !word.starts_with(b"-") && !word.contains(&b'='))
    {
        return find(OsStr::from_bytes(name)).map(Some);
    }
    Ok(Some(PathBuf::from(OsStr::from_bytes(first))))
}

fn check_elf(file: &File) -> anyhow::Result<()> {
    const DYNAMIC_LOADER: u32 = 3;
    let mut header = [0; 64];
    if file.read_exact_at(&mut header, 0).is_err() || !header.starts_with(b"\x7fELF") {
        bail!("it is neither an ELF program nor a script");
    }
    if header[4] != 2 || header[5] != if cfg!(target_endian = "little") { 1 } else { 2 } {
        bail!("it is not a program of 64 bits of this machine's kind: the library is");
    }
    let machine = u16::from_ne_bytes([header[18], header[19]]);
    let ours = if cfg!(target_arch = "aarch64") { 183 } else { 62 };
    if machine != ours {
        bail!("it is for another machine (ELF machine {machine}; this is {ours})");
    }
    let offset = u64::from_ne_bytes(*header[32..].first_chunk().context("a short header")?);
    let size = u16::from_ne_bytes([header[54], header[55]]);
    let count = u16::from_ne_bytes([header[56], header[57]]).min(HEADERS);
    for place in 0..count {
        let mut entry = [0; 56];
        let at = offset.checked_add(u64::from(place) * u64::from(size)).context("its header is damaged")?;
        file.read_exact_at(&mut entry, at).context("its header is damaged")?;
        if u32::from_ne_bytes([entry[0], entry[1], entry[2], entry[3]]) != DYNAMIC_LOADER {
            continue;
        }
        let at = u64::from_ne_bytes(*entry[8..].first_chunk().context("a short header")?);
        let mut name = [0; 256];
        let got = file.read_at(&mut name, at).context("its header is damaged")?;
        let name = name[..got].split(|byte| *byte == 0).next().unwrap_or_default();
        if name.windows(7).any(|part| part == b"ld-musl") {
            bail!("it is linked to musl: the library needs the GNU C library");
        }
        return Ok(());
    }
    bail!("it is linked statically: nothing can be preloaded into it")
}

#[cfg(test)]
mod tests {
    use std::fs::{Permissions, set_permissions, write};
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn reason(path: &Path) -> String {
        check(path).map_or_else(|error| format!("{error:#}"), |()| String::new())
    }

    #[test]
    fn programs_of_this_system_are_taken() {
        assert_eq!(reason(&find(OsStr::new("sh")).unwrap()), "");
        assert_eq!(reason(&std::env::current_exe().unwrap()), "");
    }

    #[test]
    fn scripts_are_as_good_as_who_runs_them() {
        let folder = tempfile::tempdir().unwrap();
        let script = folder.path().join("script");
        for (text, part) in [
            ("#!/bin/sh -e\nexit\n", ""),
            ("#!/usr/bin/env -S sh\n", ""),
            ("#!/nonexistent/shell\n", "cannot be read"),
            ("#!\n", "does not say"),
            ("no program", "neither"),
        ] {
            write(&script, text).unwrap();
            assert!(reason(&script).contains(part), "{text:?}: {}", reason(&script));
            assert_eq!(reason(&script).is_empty(), part.is_empty(), "{text:?}");
        }
        write(&script, format!("#!{}\n", script.display())).unwrap();
        assert!(reason(&script).contains("script of scripts"));
    }

    #[test]
    fn what_cannot_take_a_library_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("program");
        let whole = std::fs::read(std::env::current_exe().unwrap()).unwrap();
        let mut other = whole[..4096].to_vec();
        other[18] = 3;
        write(&file, &other).unwrap();
        assert!(reason(&file).contains("another machine"), "{}", reason(&file));
        // Without headers there is no loader.
        let mut bare = whole[..4096].to_vec();
        (bare[56], bare[57]) = (0, 0);
        write(&file, &bare).unwrap();
        assert!(reason(&file).contains("statically"), "{}", reason(&file));
        // Headers that lie outside the file.
        let mut damaged = whole[..64].to_vec();
        damaged[32..40].fill(0xff);
        write(&file, &damaged).unwrap();
        assert!(reason(&file).contains("damaged"), "{}", reason(&file));
    }

    #[test]
    fn who_changes_identity_is_refused() {
        if !rustix::process::geteuid().is_root() {
            return;
        }
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("program");
        write(&file, std::fs::read("/bin/sh").unwrap()).unwrap();
        std::os::unix::fs::chown(&file, Some(65_534), Some(65_534)).unwrap();
        for (mode, part) in [(0o4755, "setuid"), (0o2755, "setgid"), (0o755, "")] {
            set_permissions(&file, Permissions::from_mode(mode)).unwrap();
            assert!(reason(&file).contains(part), "{}", reason(&file));
            assert_eq!(reason(&file).is_empty(), part.is_empty());
        }
    }
}
