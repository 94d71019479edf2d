//! Runs one case under callgrind.

use std::fmt::Write as _;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::bounds::Count;
use crate::cases::Case;

/// Counts one case, in a process of its own.
///
/// # Errors
/// Says what failed, and what to do.
pub fn count(name: &str) -> Result<Count, String> {
    let (output, commands) = run(name)?;
    let text = std::fs::read_to_string(&output).map_err(|error| format!("reading {}: {error}", output.display()))?;
    let summary = text.lines().find_map(|line| line.strip_prefix("summary: ")?.trim().parse::<u64>().ok());
    match summary {
        Some(instructions @ 1..) => {
            Ok(Count { case: name.to_owned(), per_command: instructions as f64 / f64::from(commands) })
        }
        _ => Err(format!("callgrind counted nothing for {name}: is `measured_by_callgrind` still called that?")),
    }
}

/// Shows where the instructions of one case go.
///
/// # Errors
/// Says what failed.
pub fn profile(case: &Case) -> Result<(), String> {
    let (output, commands) = run(&case.name)?;
    let mut out = String::new();
    for order in ["no", "yes"] {
        let _ = writeln!(out, "\n{}, {commands} commands, --inclusive={order}:", case.name);
        let mut annotate = Command::new("callgrind_annotate");
        annotate.args(["--show-percs=yes", "--auto=no", &format!("--inclusive={order}")]).arg(&output);
        let shown = annotate.output().map_err(|error| format!("starting callgrind_annotate: {error}"))?;
        let text = String::from_utf8_lossy(&shown.stdout);
        out.extend(text.lines().filter_map(|line| shorten(line, commands)));
    }
    let _ = writeln!(out, "\nlines, if the program has them: callgrind_annotate --auto=yes {}", output.display());
    // Whoever reads only the first lines closes the pipe, which is no fault.
    let _ = std::io::stdout().write_all(out.as_bytes());
    Ok(())
}

/// A line of callgrind_annotate, per command and without what every name begins with.
fn shorten(line: &str, commands: u32) -> Option<String> {
    let (total, rest) = line.trim_start().split_once(' ')?;
    let instructions: f64 = total.replace(',', "").parse().ok()?;
    let (share, function) = rest.split_once(")  ")?;
    let function = function.strip_prefix("???:").unwrap_or(function);
    let function = function.split(" [/").next()?.replace("instructions::logic::multiplexer::", "");
    let function = function.replace("instructions::", "").replace("<impl Multiplexer>::", "");
    Some(format!("{:9.1} {share})  {function}\n", instructions / f64::from(commands)))
}

/// Returns callgrind's output and for how many commands it is.
fn run(name: &str) -> Result<(PathBuf, u32), String> {
    let program = std::env::current_exe().map_err(|error| format!("finding this program: {error}"))?;
    let directory = program.parent().unwrap_or(Path::new(".")).join("counts");
    std::fs::create_dir_all(&directory).map_err(|error| format!("making {}: {error}", directory.display()))?;
    let output = directory.join(format!("{name}.out"));
    let ran = Command::new("valgrind")
        .args(["--tool=callgrind", "--toggle-collect=*measured_by_callgrind*"])
        .arg(format!("--callgrind-out-file={}", output.display()))
        .arg(program)
        .args(["run", name])
        // Else glibc copies more than 2 KiB by an instruction that counts once a byte.
        .env("GLIBC_TUNABLES", "glibc.cpu.x86_rep_movsb_threshold=1073741824")
        .stdin(Stdio::null())
        .output()
        .map_err(|error| format!("starting valgrind: {error}; install what Debian calls valgrind, or run ./test.sh"))?;
    let said = String::from_utf8_lossy(&ran.stdout);
    match said.trim().parse() {
        Ok(commands) if ran.status.success() => Ok((output, commands)),
        _ => Err(format!("{name} failed under valgrind ({}):\n{}", ran.status, String::from_utf8_lossy(&ran.stderr))),
    }
}
