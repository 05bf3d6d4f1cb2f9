//! What can be asked for: read or made at the start, constant from then on.

use std::collections::HashMap;
use std::fmt::Write;
use std::fs::{self, File};
use std::io::Read;
use std::path::Path;

use anyhow::{Context, bail};
use demi_api::{Buf, Heap};
use sha2::{Digest, Sha256};

/// Bytes of one buffer, and of the largest segment that is pushed.
const PIECE: usize = 64 << 10;

/// Most files, and most directories within each other.
const MOST_FILES: usize = 100_000;
const DEEPEST: usize = 32;

/// A body.
#[derive(Debug)]
pub(super) struct Entity {
    /// All of it, or what it repeats.
    pieces: Vec<Buf>,
    pub(super) len: u64,
    /// In hexadecimal.
    pub(super) sha256: String,
}

#[derive(Debug)]
pub(super) struct Content {
    by_path: HashMap<String, Entity>,
}

impl Content {
    pub(super) fn load(heap: &Heap, root: Option<&Path>, generate: Option<u64>) -> anyhow::Result<Content> {
        let mut content = Content { by_path: HashMap::new() };
        let mut room = heap.region().len as u64 / 2;
        if let Some(len) = generate {
            content.by_path.insert("/generated".into(), generated(heap, len)?);
        }
        if let Some(root) = root {
            let read = content.read(heap, root, "", DEEPEST, &mut room);
            read.with_context(|| format!("cannot serve {}", root.display()))?;
        }
        Ok(content)
    }

    /// The body for the path of a request, without its query. A path is looked up as it is, so nothing outside of the
    /// directory has one.
    pub(super) fn find(&self, path: &str) -> Option<&Entity> {
        self.by_path.get(path)
    }

    fn read(
        &mut self,
        heap: &Heap,
        folder: &Path,
        above: &str,
        deepest: usize,
        room: &mut u64,
    ) -> anyhow::Result<()> {
        for entry in fs::read_dir(folder)? {
            let entry = entry?;
            // Names that are not plain would have to be encoded by clients: those are left out.
            let Some(name) = entry.file_name().to_str().map(str::to_owned) else { continue };
            let path = format!("{above}/{name}");
            let kind = entry.file_type()?;
            if kind.is_dir() && deepest > 0 {
                self.read(heap, &entry.path(), &path, deepest - 1, room)?;
            } else if kind.is_file() {
                let entity = stored(heap, &entry.path(), room).with_context(|| path.clone())?;
                self.by_path.insert(path, entity);
            }
            if self.by_path.len() > MOST_FILES {
                bail!("there are more than {MOST_FILES} files");
            }
        }
        Ok(())
    }
}

impl Entity {
    /// The bytes from `at` on, as many as lie together.
    pub(super) fn piece(&self, at: u64) -> Buf {
        let place = (at % (self.pieces.len() as u64 * PIECE as u64)) as usize;
        let left = usize::try_from(self.len - at).unwrap_or(usize::MAX);
        let piece = &self.pieces[place / PIECE];
        let start = place % PIECE;
        piece.slice(start..piece.len().min(start.saturating_add(left)))
    }
}

/// The digest, as it is told.
pub(super) fn hexadecimal(hash: Sha256) -> String {
    hash.finalize().iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

fn stored(heap: &Heap, path: &Path, room: &mut u64) -> anyhow::Result<Entity> {
    let mut file = File::open(path)?;
    let (mut pieces, mut len, mut hash) = (Vec::new(), 0, Sha256::new());
    let mut bytes = vec![0; PIECE];
    loop {
        let mut filled = 0;
        while filled < PIECE {
            match file.read(&mut bytes[filled..])? {
                0 => break,
                count => filled += count,
            }
        }
        if filled == 0 {
            return Ok(Entity { pieces, len, sha256: hexadecimal(hash) });
        }
        let Some(left) = room.checked_sub(filled as u64) else {
            bail!("the files take more than half of the heap; raise heap.size_mib in the configuration");
        };
        *room = left;
        len += filled as u64;
        hash.update(&bytes[..filled]);
        pieces.push(heap.copy_from(&bytes[..filled])?);
    }
}

/// Sixteen pieces of noise, over and over.
fn generated(heap: &Heap, len: u64) -> anyhow::Result<Entity> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut pieces = Vec::new();
    for _ in 0..16 {
        let mut piece = heap.alloc(PIECE)?;
        for word in piece.chunks_exact_mut(8) {
            // Marsaglia's xorshift64.
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            word.copy_from_slice(&state.to_le_bytes());
        }
        pieces.push(piece.freeze());
    }
    let mut entity = Entity { pieces, len, sha256: String::new() };
    let (mut hash, mut at) = (Sha256::new(), 0);
    while at < len {
        let piece = entity.piece(at);
        hash.update(&piece[..]);
        at += piece.len() as u64;
    }
    entity.sha256 = hexadecimal(hash);
    Ok(entity)
}
