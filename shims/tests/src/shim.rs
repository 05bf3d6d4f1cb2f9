//! The preload libraries and `demi-run`: those that `DEMI_RUN` names, or as cargo makes them for the profile of this
//! build.

use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use crate::text;

/// Who makes them: a library for each libOS, and the program that starts others with one.
const PACKAGES: [&str; 3] = ["demi-run", "demi-preload-catnap", "demi-preload-catnip"];

/// Where `demi-run` lies, with the libraries beside it; built at the first call.
///
/// # Panics
///
/// If they do not build.
pub fn demi_run() -> PathBuf {
    static BUILT: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    match BUILT.get_or_init(|| named().map_or_else(build, Ok)) {
        Ok(path) => path.clone(),
        Err(why) => panic!("the shim does not build: {why}"),
    }
}

/// One that is installed already.
fn named() -> Option<PathBuf> {
    std::env::var_os("DEMI_RUN").map(PathBuf::from)
}

fn build() -> Result<PathBuf, String> {
    // This test lies in `TARGET/PROFILE/deps`.
    let test = std::env::current_exe().map_err(|error| error.to_string())?;
    let profile = test.ancestors().nth(2).ok_or("a test that lies nowhere")?;
    let target = profile.parent().ok_or("a test that lies nowhere")?;
    let name = match profile.file_name().and_then(|name| name.to_str()) {
        None | Some("debug") => "dev",
        Some(name) => name,
    };
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.args(["build", "--quiet", "--profile", name, "--target-dir"]).arg(target);
    for package in PACKAGES {
        cargo.args(["-p", package]);
    }
    cargo.current_dir(env!("CARGO_MANIFEST_DIR")).stdin(Stdio::null());
    let output = cargo.output().map_err(|error| format!("cargo does not start: {error}"))?;
    if !output.status.success() {
        return Err(text(&output.stderr));
    }
    Ok(profile.join("demi-run"))
}
