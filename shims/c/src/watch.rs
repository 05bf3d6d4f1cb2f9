//! The detector of writes to what is in flight: a checksum at the push, compared when the program is told of its end.
//!
//! Not in here: how a write is prevented. C cannot; the mode is there to find the place.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hasher};
use std::io::{self, Write as _};

use demi_api::{QToken, SgArray};

/// Pushes whose end the program has not been told of.
#[derive(Debug, Default)]
pub(crate) struct Watch {
    pushes: HashMap<QToken, (SgArray, u64)>,
}

impl Watch {
    pub(crate) fn pushed(&mut self, token: QToken, sga: SgArray) {
        let sum = sum(&sga);
        self.pushes.insert(token, (sga, sum));
    }

    /// Whether the bytes of a push are those that were pushed. Says so on standard error if they are not.
    pub(crate) fn completed(&mut self, token: QToken) -> bool {
        let Some((sga, pushed)) = self.pushes.remove(&token) else { return true };
        let same = sum(&sga) == pushed;
        if !same {
            let len = sga.len();
            // Without a standard error there is nobody to be told.
            let _ = writeln!(
                io::stderr(),
                "demi: token {} ({token}): {len} bytes were pushed, and written to before the push was done; \
                 wait for the token, or push a copy",
                token.raw()
            );
        }
        same
    }
}

fn sum(sga: &SgArray) -> u64 {
    let mut hasher = DefaultHasher::new();
    for segment in sga.segments() {
        hasher.write(segment);
    }
    hasher.finish()
}
