//! Compilers, the libraries, and names for them.
//!
//! Programs are linked with `libdemi_catnap`, and look for its soname. A folder per library gives that name to the
//! library; which folder a program is started with decides which library it uses.

use std::fmt;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Mutex, OnceLock, PoisonError};

use libtest_mimic::Failed;

use super::Needs;

/// A library.
#[derive(Debug)]
pub(crate) struct Library {
    name: &'static str,
    network: bool,
    /// Its connections are streams of bytes; those of others are queues of messages.
    streams: bool,
    kernel: bool,
    logs: bool,
    files: bool,
}

pub(crate) const LIBRARIES: [Library; 7] = [
    Library { name: "catnap", network: true, streams: true, kernel: true, logs: false, files: true },
    Library { name: "catnip", network: true, streams: true, kernel: false, logs: false, files: false },
    Library { name: "cattree", network: false, streams: false, kernel: false, logs: true, files: false },
    Library { name: "catnap_cattree", network: true, streams: true, kernel: true, logs: true, files: false },
    Library { name: "catnip_cattree", network: true, streams: true, kernel: false, logs: true, files: false },
    Library { name: "catmint", network: true, streams: false, kernel: false, logs: false, files: false },
    Library {
        name: "catmint_cattree",
        network: true,
        streams: false,
        kernel: false,
        logs: true,
        files: false,
    },
];

impl Library {
    pub(crate) fn has(&self, needs: Needs) -> bool {
        match needs {
            Needs::Queues => true,
            Needs::Sockets => self.network,
            Needs::Streams => self.streams,
            Needs::Kernel => self.kernel && self.files,
            Needs::Logs => self.logs,
        }
    }

    /// What processes need between them.
    pub(crate) fn between(&self) -> Between {
        match (self.kernel, self.streams) {
            (true, _) => Between::Kernel,
            (false, true) => Between::Memif,
            (false, false) => Between::Rdma,
        }
    }
}

/// What carries packets from one process to another.
pub(crate) enum Between {
    Kernel,
    /// A memif between two TCP stacks.
    Memif,
    /// Shared memory between two instances of RDMA in user space.
    Rdma,
}

impl fmt::Display for Library {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)
    }
}

/// What is there.
#[derive(Debug)]
pub(crate) struct Tools {
    pub(crate) cc: Option<&'static str>,
    pub(crate) valgrind: bool,
    pub(crate) python: bool,
    pub(crate) cxx: bool,
    sanitizer: bool,
    /// For what is compiled.
    folder: PathBuf,
}

/// The folder of this crate.
pub(crate) const CRATE: &str = env!("CARGO_MANIFEST_DIR");

static ALONE: Mutex<()> = Mutex::new(());

impl Tools {
    /// Looks for them, once.
    pub(crate) fn find() -> &'static Tools {
        static TOOLS: OnceLock<Tools> = OnceLock::new();
        TOOLS.get_or_init(|| {
            let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("demi-c-programs");
            fs::create_dir_all(&folder).expect("the build's folder can be written to");
            let mut tools = Tools {
                cc: ["cc", "gcc", "clang"].into_iter().find(|cc| answers(cc)),
                valgrind: answers("valgrind"),
                python: answers("python3"),
                cxx: answers("c++"),
                sanitizer: false,
                folder,
            };
            tools.sanitizer = tools.try_sanitizer();
            tools
        })
    }

    pub(crate) fn can_sanitize(&self) -> bool {
        self.sanitizer
    }

    fn try_sanitizer(&self) -> bool {
        let source = self.folder.join("empty.c");
        let Some(cc) = self.cc else { return false };
        if fs::write(&source, "int main(void) { return 0; }\n").is_err() {
            return false;
        }
        let program = self.folder.join("empty");
        let mut command = Command::new(cc);
        command.arg("-fsanitize=address").arg(&source).arg("-o").arg(&program);
        succeeds(&mut command) && succeeds(&mut Command::new(&program))
    }

    /// Builds the libraries, once; returns the folder that they are in.
    pub(crate) fn libraries(&self) -> Result<&'static Path, Failed> {
        static BUILT: OnceLock<Result<PathBuf, String>> = OnceLock::new();
        let built = BUILT.get_or_init(|| {
            // This program is in the folder `deps` of the profile's folder.
            let this = std::env::current_exe().map_err(|error| error.to_string())?;
            let place = this.ancestors().nth(2).ok_or("this program lies nowhere")?.to_path_buf();
            let target = place.parent().ok_or("the build's folder lies nowhere")?;
            let mut cargo = Command::new(env!("CARGO"));
            cargo.args(["build", "--quiet", "--target-dir"]).arg(target).current_dir(CRATE);
            if place.ends_with("release") {
                cargo.arg("--release");
            }
            for library in &LIBRARIES {
                cargo.arg("-p").arg(format!("demi-c-{}", library.name.replace('_', "-")));
            }
            let output = cargo.stdin(Stdio::null()).output().map_err(|error| error.to_string())?;
            if !output.status.success() {
                return Err(String::from_utf8_lossy(&output.stderr).into_owned());
            }
            Ok(place)
        });
        built.as_deref().map_err(|error| error.as_str().into())
    }

    /// A folder in which the soname that programs look for is that of a library.
    pub(crate) fn named(&self, library: &Library) -> Result<PathBuf, Failed> {
        let file = self.libraries()?.join(format!("libdemi_{library}.so"));
        let folder = self.folder.join(format!("as-{library}"));
        fs::create_dir_all(&folder)?;
        let name = folder.join(concat!("libdemi_catnap.so.", env!("CARGO_PKG_VERSION_MAJOR")));
        let _guard = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
        if fs::read_link(&name).ok().as_ref() != Some(&file) {
            let _ = fs::remove_file(&name);
            symlink(&file, &name)?;
        }
        Ok(folder)
    }

    /// Compiles a program of these tests, once.
    pub(crate) fn compile(&self, program: &str, sanitize: bool) -> Result<PathBuf, Failed> {
        self.compile_from("tests/programs", program, sanitize)
    }

    /// Compiles a program of C or C++, once.
    pub(crate) fn compile_from(
        &self,
        folder: &str,
        program: &str,
        sanitize: bool,
    ) -> Result<PathBuf, Failed> {
        let libraries = self.libraries()?;
        let kind = if sanitize { "-asan" } else { "" };
        let place = folder.replace(|letter: char| !letter.is_ascii_alphanumeric(), "");
        let binary = self.folder.join(format!("{place}-{program}{kind}"));
        static DONE: Mutex<Vec<PathBuf>> = Mutex::new(Vec::new());
        let mut done = DONE.lock().unwrap_or_else(PoisonError::into_inner);
        if done.contains(&binary) {
            return Ok(binary);
        }
        let sources = Path::new(CRATE).join(folder);
        let is_cxx = sources.join(format!("{program}.cpp")).exists();
        let mut command = Command::new(if is_cxx { "c++" } else { self.cc.unwrap_or("cc") });
        command.arg(if is_cxx { "-std=c++17" } else { "-std=gnu11" });
        command.args(["-Wall", "-Wextra", "-Wpedantic", "-Werror", "-g", "-O1"]);
        if sanitize {
            command.args(["-fsanitize=address,undefined", "-fno-sanitize-recover=all"]);
        }
        command.arg("-I").arg(Path::new(CRATE).join("../include"));
        command.arg(sources.join(format!("{program}.{}", if is_cxx { "cpp" } else { "c" })));
        command.arg("-o").arg(&binary).arg("-L").arg(libraries).args(["-ldemi_catnap", "-lpthread"]);
        let output = command.stdin(Stdio::null()).output()?;
        if !output.status.success() {
            return Err(String::from_utf8_lossy(&output.stderr).into_owned().into());
        }
        done.push(binary.clone());
        Ok(binary)
    }
}

fn answers(program: &str) -> bool {
    succeeds(Command::new(program).arg("--version"))
}

fn succeeds(command: &mut Command) -> bool {
    let status = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status();
    status.is_ok_and(|status| status.success())
}
