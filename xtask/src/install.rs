//! Headers, libraries, pkg-config files, manual pages and tools, below one folder.
//!
//! What is installed is what a program in C is built and run with. A library has the version in its file's name, and two
//! names by which it is found: the soname, by programs that are linked with it, and the plain one, by the linker.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, ensure};

use crate::compile;

/// Packages of libraries for programs in C, without `demi-c-`.
const LIBRARIES: [&str; 7] =
    ["catnap", "catnip", "catmint", "cattree", "catnap-cattree", "catnip-cattree", "catmint-cattree"];

/// Packages of libraries that are loaded into programs, without `demi-preload-`; each comes with that for programs in C.
const PRELOADS: [&str; 2] = ["catnap", "catnip"];

const VERSION: &str = env!("CARGO_PKG_VERSION");
const MAJOR: &str = env!("CARGO_PKG_VERSION_MAJOR");

/// Install what programs in C need.
///
/// Below DIR: include/demi.h and include/demi/, lib/libdemi_*.so and .a, lib/pkgconfig/, share/man/man3/, bin/demi-fsck,
/// share/doc/demi/demi.toml; with catnap and catnip also lib/libdemi_preload_*.so and bin/demi-run. All is built
/// in release mode. What is there under the same names is replaced.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// The folder, such as /usr/local
    #[arg(long, value_name = "DIR")]
    prefix: PathBuf,
    /// Only these libraries, such as catnap or catnip-cattree
    #[arg(long, value_name = "LIBRARY", value_delimiter = ',')]
    only: Vec<String>,
}

pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    fs::create_dir_all(&args.prefix).with_context(|| args.prefix.display().to_string())?;
    // pkg-config files name it from anywhere.
    let prefix = args.prefix.canonicalize().with_context(|| args.prefix.display().to_string())?;
    for name in &args.only {
        ensure!(
            LIBRARIES.contains(&name.as_str()),
            "there is no library {name}: choose of {}",
            LIBRARIES.join(", ")
        );
    }
    let wanted: Vec<&str> = LIBRARIES
        .into_iter()
        .filter(|library| args.only.is_empty() || args.only.iter().any(|only| only == library))
        .collect();
    let place = Place { prefix };
    place.headers()?;
    place.pages()?;
    place.file(&compile::root().join("docs/demi.toml"), "share/doc/demi/demi.toml", 0o644)?;
    let packages: Vec<String> = wanted.iter().map(|library| format!("demi-c-{library}")).collect();
    let files = compile::libraries(&packages)?;
    for library in &wanted {
        place.library(library, &files)?;
    }
    place.tools()?;
    let preloads: Vec<&str> = PRELOADS.into_iter().filter(|library| wanted.contains(library)).collect();
    if !preloads.is_empty() {
        place.preload(&preloads)?;
    }
    println!("installed in {}; for pkg-config:", place.prefix.display());
    println!("export PKG_CONFIG_PATH={}", place.prefix.join("lib/pkgconfig").display());
    Ok(ExitCode::SUCCESS)
}

struct Place {
    prefix: PathBuf,
}

impl Place {
    fn headers(&self) -> Result<()> {
        let include = compile::root().join("shims/include");
        self.file(&include.join("demi.h"), "include/demi.h", 0o644)?;
        for name in ["types.h", "sga.h", "wait.h", "libos.h"] {
            self.file(&include.join("demi").join(name), &format!("include/demi/{name}"), 0o644)?;
        }
        Ok(())
    }

    /// The pages, each under all names of the calls that it describes.
    fn pages(&self) -> Result<()> {
        let folder = compile::root().join("docs/man");
        for entry in fs::read_dir(&folder).with_context(|| folder.display().to_string())? {
            let path = entry?.path();
            let Some(name) = path.file_name().and_then(|name| name.to_str()) else { continue };
            if !name.ends_with(".3") {
                continue;
            }
            self.file(&path, &format!("share/man/man3/{name}"), 0o644)?;
            let text = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
            for other in described(&text).into_iter().map(|call| format!("{call}.3")) {
                if other != name {
                    self.link(name, &format!("share/man/man3/{other}"))?;
                }
            }
        }
        Ok(())
    }

    fn library(&self, library: &str, files: &[PathBuf]) -> Result<()> {
        let name = format!("demi_{}", library.replace('-', "_"));
        let find = |kind: &str| {
            let file = format!("lib{name}.{kind}");
            files.iter().find(|path| path.ends_with(&file)).with_context(|| format!("{file} was not built"))
        };
        let file = format!("lib{name}.so.{VERSION}");
        self.file(find("so")?, &format!("lib/{file}"), 0o755)?;
        self.link(&file, &format!("lib/lib{name}.so.{MAJOR}"))?;
        self.link(&file, &format!("lib/lib{name}.so"))?;
        self.file(find("a")?, &format!("lib/lib{name}.a"), 0o644)?;
        let template = compile::root().join("shims/pkgconfig/demi.pc.in");
        let text = fs::read_to_string(&template).with_context(|| template.display().to_string())?;
        let text = text
            .replace("@PREFIX@", &self.prefix.display().to_string())
            .replace("@NAME@", &name)
            .replace("@DESCRIPTION@", &format!("Demi's C interface over {}", library.replace('-', " and ")))
            .replace("@VERSION@", VERSION);
        self.text(&text, &format!("lib/pkgconfig/{name}.pc"))
    }

    /// Programs that look at what a libOS leaves behind.
    fn tools(&self) -> Result<()> {
        let binaries = compile::release(&[("demi-fsck", "demi-fsck")])?;
        self.file(binaries.path("demi-fsck")?, "bin/demi-fsck", 0o755)
    }

    /// What is loaded into programs that know nothing of it, and the program that does so.
    fn preload(&self, libraries: &[&str]) -> Result<()> {
        let packages: Vec<String> = libraries.iter().map(|libos| format!("demi-preload-{libos}")).collect();
        for library in
            compile::libraries(&packages)?.iter().filter(|file| file.extension().is_some_and(|it| it == "so"))
        {
            let name = library.file_name().unwrap_or_default().to_string_lossy();
            self.file(library, &format!("lib/{name}"), 0o755)?;
        }
        let binaries = compile::release(&[("demi-run", "demi-run")])?;
        self.file(binaries.path("demi-run")?, "bin/demi-run", 0o755)
    }

    /// Copies a file. What was there goes first, as a program that runs may have it open.
    fn file(&self, from: &Path, to: &str, mode: u32) -> Result<()> {
        let to = self.vacate(to)?;
        fs::copy(from, &to).with_context(|| format!("{} to {}", from.display(), to.display()))?;
        fs::set_permissions(&to, fs::Permissions::from_mode(mode)).with_context(|| to.display().to_string())
    }

    fn text(&self, text: &str, to: &str) -> Result<()> {
        let to = self.vacate(to)?;
        fs::write(&to, text).with_context(|| to.display().to_string())
    }

    /// A link to a file in the same folder.
    fn link(&self, target: &str, to: &str) -> Result<()> {
        let to = self.vacate(to)?;
        symlink(target, &to).with_context(|| to.display().to_string())
    }

    fn vacate(&self, to: &str) -> Result<PathBuf> {
        let to = self.prefix.join(to);
        if let Some(folder) = to.parent() {
            fs::create_dir_all(folder).with_context(|| folder.display().to_string())?;
        }
        match fs::remove_file(&to) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(error).with_context(|| to.display().to_string())
            }
            _ => Ok(to),
        }
    }
}

/// The calls that a page describes: the names in its section NAME.
fn described(page: &str) -> Vec<&str> {
    let line = page.lines().skip_while(|line| *line != ".SH NAME").nth(1).unwrap_or("");
    let names = line.split(" \\- ").next().unwrap_or("");
    names.split(',').map(str::trim).filter(|name| !name.is_empty()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_call_has_a_page() {
        let folder = compile::root().join("docs/man");
        let mut pages = Vec::new();
        for entry in fs::read_dir(folder).unwrap() {
            pages.push(fs::read_to_string(entry.unwrap().path()).unwrap());
        }
        let described: Vec<&str> = pages.iter().flat_map(|page| described(page)).collect();
        for header in ["libos.h", "sga.h", "wait.h"] {
            let text = fs::read_to_string(compile::root().join("shims/include/demi").join(header)).unwrap();
            for line in text.lines().filter(|line| !line.starts_with([' ', '/'])) {
                let name = line.split('(').next().and_then(|before| before.split([' ', '*']).next_back());
                if let Some(name) = name.filter(|name| name.starts_with("demi_")) {
                    assert!(described.contains(&name), "{name} of {header} is in no page");
                    assert!(
                        pages.iter().any(|page| page.contains(&format!("{name}("))),
                        "{name} has no synopsis"
                    );
                }
            }
        }
    }

    #[test]
    fn a_library_has_its_names_and_replaces_what_was_there() {
        let folder = tempfile::tempdir().unwrap();
        let built = [folder.path().join("libdemi_x_y.so"), folder.path().join("libdemi_x_y.a")];
        for path in &built {
            fs::write(path, "new").unwrap();
        }
        let place = Place { prefix: folder.path().join("prefix") };
        for _ in 0..2 {
            place.library("x-y", &built).unwrap();
        }
        let lib = place.prefix.join("lib");
        for name in ["libdemi_x_y.so", &format!("libdemi_x_y.so.{MAJOR}"), "libdemi_x_y.a"] {
            assert_eq!(fs::read_to_string(lib.join(name)).unwrap(), "new", "{name}");
        }
        let text = fs::read_to_string(lib.join("pkgconfig/demi_x_y.pc")).unwrap();
        assert!(text.contains("-ldemi_x_y") && !text.contains('@'), "{text}");
        assert!(place.library("z", &built).is_err());
    }
}
