//! Children that do not outlive the demo, and the folder that they work in.

use std::fs::DirBuilder;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// A child of ours. Killed, by its pid, when it is dropped.
pub(super) struct Process {
    /// The child itself.
    pub(super) child: Child,
}

/// Starts children that the kernel kills should the demo itself be killed.
pub(super) struct Starter {
    setpriv: Option<PathBuf>,
}

/// A folder for as long as the demo runs.
pub(super) struct Folder {
    /// Where it is.
    pub(super) path: PathBuf,
}

impl Starter {
    /// Looks what this machine has.
    pub(super) fn new() -> Self {
        let works = |path: &PathBuf| {
            let mut trial = Command::new(path);
            trial.args(["--pdeathsig", "KILL", "--", "true"]).stdout(Stdio::null()).stderr(Stdio::null());
            trial.status().is_ok_and(|status| status.success())
        };
        Self { setpriv: on_path("setpriv").filter(works) }
    }

    /// Starts a program. To be called on a thread that lives to the end: its death is what the kernel looks at.
    pub(super) fn start(&self, program: &Path, configure: impl FnOnce(&mut Command)) -> io::Result<Process> {
        let mut command = match &self.setpriv {
            Some(setpriv) => {
                let mut command = Command::new(setpriv);
                command.args(["--pdeathsig", "KILL", "--"]).arg(program);
                command
            }
            None => Command::new(program),
        };
        configure(&mut command);
        // In a group of its own, so that Ctrl-C reaches the demo alone, which then ends everything in order.
        command.process_group(0).stdin(Stdio::null());
        Ok(Process { child: command.spawn()? })
    }
}

impl Process {
    /// Its process id.
    pub(super) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// kill -9, and waits until it is gone.
    pub(super) fn kill(&mut self) {
        // Both can only fail for a child that is gone already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// It has not ended.
    pub(super) fn lives(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

impl Folder {
    /// A new one, for us alone.
    pub(super) fn new() -> io::Result<Self> {
        let name = format!("handover-demo-{}-{:08x}", std::process::id(), fastrand::u32(..));
        let path = std::env::temp_dir().join(name);
        DirBuilder::new().mode(0o700).create(&path)?;
        Ok(Self { path })
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // A folder that stays behind in /tmp is no reason to fail.
        let _ = std::fs::remove_dir_all(&self.path);
    }
}

/// A program of the PATH.
pub(super) fn on_path(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    let candidate = std::env::split_paths(&path).map(|folder| folder.join(program)).find(|file| file.is_file())?;
    // Absolute, since children work in another folder; a link stays a link, since programs look at their name.
    std::path::absolute(candidate).ok()
}
