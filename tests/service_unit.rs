//! The systemd unit: well-formed where systemd can say so, hardened and consistent everywhere.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

fn unit() -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/handover.service");
    std::fs::read_to_string(path).unwrap()
}

/// The assignments of one section. A key that stands twice would hide its first value, so that it fails here.
fn section(name: &str) -> BTreeMap<String, String> {
    let mut assignments = BTreeMap::new();
    let mut inside = false;
    for line in unit().lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
        if line.starts_with('[') {
            inside = line == format!("[{name}]");
        } else if inside {
            let (key, value) = line.split_once('=').unwrap_or_else(|| panic!("not an assignment: {line}"));
            assert_eq!(assignments.insert(key.to_owned(), value.to_owned()), None, "{key} stands twice");
        }
    }
    assignments
}

#[test]
fn systemd_finds_nothing_wrong() {
    if Command::new("systemd-analyze").arg("--version").output().is_err() {
        println!("skipped: systemd-analyze is not installed");
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let copy = directory.path().join("handover.service");
    let exists = std::env::current_exe().unwrap();
    let text = unit().replace("/usr/bin/handover ", &format!("{} ", exists.display()));
    assert!(text.contains(exists.to_str().unwrap()));
    std::fs::write(&copy, text).unwrap();
    let output = Command::new("systemd-analyze").args(["verify", "--man=no"]).arg(&copy).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    // Only what is said of this unit counts: the machine's own units are not ours to judge.
    let about_us: Vec<&str> = said.lines().filter(|line| line.contains("handover")).collect();
    assert!(about_us.is_empty() && output.status.success(), "{}: {said}", output.status);
}

#[test]
fn the_service_may_do_little() {
    let service = section("Service");
    for (key, value) in [
        ("DynamicUser", "yes"),
        ("ProtectSystem", "strict"),
        ("NoNewPrivileges", "yes"),
        ("PrivateTmp", "yes"),
        ("RestrictAddressFamilies", "AF_INET AF_INET6 AF_UNIX"),
        ("SystemCallFilter", "@system-service"),
        ("MemoryDenyWriteExecute", "yes"),
        ("CapabilityBoundingSet", ""),
    ] {
        assert_eq!(service.get(key).map(String::as_str), Some(value), "{key}");
    }
}

#[test]
fn the_unit_agrees_with_what_the_process_does() {
    let service = section("Service");
    for (key, value) in [
        ("Type", "notify"),
        ("ExecReload", "/bin/kill -HUP $MAINPID"),
        ("Restart", "on-failure"),
        ("RestartPreventExitStatus", "2 78"),
        ("TimeoutStopSec", "35s"),
        ("LimitNOFILE", "65536"),
        ("StateDirectory", "handover"),
        ("RuntimeDirectory", "handover"),
    ] {
        assert_eq!(service.get(key).map(String::as_str), Some(value), "{key}");
    }
    assert!(service.contains_key("WatchdogSec"));
    assert_eq!(section("Install")["WantedBy"], "multi-user.target");
}
