//! What a container is made of fits together: Dockerfile, docker-compose.yml, its configuration, the scripts.
//!
//! No image is built here; what can be known without a daemon is checked.

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use saphyr::{LoadableYamlNode, Yaml};

const CONFIGURATION_INSIDE: &str = "/etc/handover/handover.toml";

#[test]
fn the_dockerfile_copies_what_exists_and_runs_what_it_copied() {
    let instructions = dockerfile();
    let ignored = ignored_names();
    for arguments in of_kind(&instructions, "COPY") {
        let words: Vec<_> = arguments.split_whitespace().collect();
        let (target, sources) = words.split_last().expect("COPY has arguments");
        if words[0].starts_with("--from=") {
            let built = of_kind(&instructions, "RUN")
                .any(|run| run.contains(&format!("cp target/release/handover {}", words[1])));
            assert!(built, "{} is copied from the builder, which does not make it", words[1]);
            assert!(of_kind(&instructions, "ENTRYPOINT").any(|entry| entry.contains(target)), "{target} is not run");
        } else {
            for source in sources {
                assert!(root().join(source).exists(), "COPY {source}: no such file");
            }
        }
    }
    for needed in ["Cargo.toml", "Cargo.lock", "src", "benches"] {
        assert!(root().join(needed).exists() && !ignored.contains(needed), "{needed} does not reach the builder");
    }
}

#[test]
fn the_image_runs_without_privileges_on_the_ports_it_names() {
    let instructions = dockerfile();
    let last_stage = instructions.iter().rposition(|(name, _)| name == "FROM").expect("a FROM");
    let runtime = &instructions[last_stage..];
    let user = of_kind(runtime, "USER").last().expect("a USER in the last stage");
    assert!(!user.starts_with("root") && !user.starts_with('0'), "runs as {user}");
    let exposed: Vec<_> = of_kind(runtime, "EXPOSE").flat_map(str::split_whitespace).collect();
    let configuration = compose_configuration();
    for address in [&configuration["listener"][0]["bind"], &configuration["admin"]["http"]] {
        let port = address.as_str().and_then(|address| address.rsplit(':').next()).expect("host:port");
        assert!(exposed.contains(&port), "{port} is listened on, exposed are {exposed:?}");
    }
    assert!(of_kind(runtime, "CMD").any(|command| command.contains(CONFIGURATION_INSIDE)));
    assert!(of_kind(runtime, "ENV").any(|variable| variable == "STATE_DIRECTORY=/var/lib/handover"));
}

#[test]
fn compose_mounts_what_exists_and_publishes_to_this_machine_only() {
    let compose = compose();
    let handover = &compose["services"]["handover"];
    for published in strings(&handover["ports"]) {
        assert!(published.starts_with("127.0.0.1:"), "{published} is published beyond this machine");
    }
    assert_eq!(strings(&handover["ports"]).len(), 2);
    let mut mounts_configuration = false;
    for volume in strings(&handover["volumes"]) {
        let (source, target) = volume.split_once(':').expect("source:target");
        if source.starts_with("./") {
            assert!(root().join(source).is_file(), "{source} is mounted, but does not exist");
            mounts_configuration |= target == format!("{CONFIGURATION_INSIDE}:ro");
        } else {
            assert!(compose["volumes"].as_mapping_get(source).is_some(), "volume {source} is not declared");
        }
    }
    assert!(mounts_configuration);
    assert_eq!(strings(&handover["command"]).last().map(String::as_str), Some(CONFIGURATION_INSIDE));
    assert!(root().join(handover["build"].as_str().expect("a folder")).join("Dockerfile").is_file());
}

#[test]
fn the_health_check_of_compose_believes_the_status_alone() {
    let compose = compose();
    let words = strings(&compose["services"]["handover"]["healthcheck"]["test"]);
    assert_eq!(words[..3], ["CMD", "bash", "-c"]);
    for (status, healthy) in [("200 OK", true), ("503 Service Unavailable", false)] {
        let port = answer_once(format!("HTTP/1.0 {status}\r\ncontent-length: 0\r\n\r\n"));
        let script = words[3].replace("$$", "$").replace("9400", &port.to_string());
        let outcome = Command::new("bash").arg("-c").arg(script).status().expect("bash runs");
        assert_eq!(outcome.success(), healthy, "{status}");
    }
}

#[test]
fn the_backends_of_the_compose_configuration_are_its_services() {
    let compose = compose();
    let wanted: BTreeSet<String> = strings(&compose["services"]["handover"]["depends_on"]).into_iter().collect();
    let configuration = compose_configuration();
    let backends = configuration["backend"].as_array().expect("backends");
    let hosts: BTreeSet<String> = backends.iter().map(|backend| host_of(&backend["url"])).collect();
    assert_eq!(hosts, wanted);
    for host in &hosts {
        let service = compose["services"].as_mapping_get(host).unwrap_or_else(|| panic!("{host} is no service"));
        let image = service["image"].as_str().expect("an image");
        assert!(image.split_once(':').is_some_and(|(_, tag)| tag != "latest"), "{image} is not of a known version");
    }
}

#[test]
fn the_compose_configuration_is_right() {
    let mut check = Command::new(env!("CARGO_BIN_EXE_handover"));
    check.arg("check").arg("-c").arg(root().join("deploy/compose.toml"));
    let output = check.output().expect("the binary runs");
    let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{said}");
    for backend in ["east", "west"] {
        assert!(said.contains(backend), "check says nothing of {backend}:\n{said}");
    }
}

#[test]
fn the_scripts_can_be_run() {
    for script in ["test.sh", "demo.sh", ".ci/run"] {
        let file = root().join(script);
        let mode = std::fs::metadata(&file).unwrap_or_else(|error| panic!("{script}: {error}")).permissions().mode();
        assert!(mode & 0o111 == 0o111, "{script} is not executable");
        let syntax = Command::new("bash").arg("-n").arg(&file).status().expect("bash runs");
        assert!(syntax.success(), "{script} is not a script");
    }
}

/// The instructions of the Dockerfile with their arguments, continued lines joined, comments left out.
fn dockerfile() -> Vec<(String, String)> {
    let text = read("Dockerfile").replace("\\\n", " ");
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    lines
        .map(|line| {
            let (name, arguments) = line.split_once(' ').unwrap_or_else(|| panic!("no instruction: {line}"));
            (name.to_owned(), arguments.trim().to_owned())
        })
        .collect()
}

fn of_kind<'a>(instructions: &'a [(String, String)], kind: &'a str) -> impl Iterator<Item = &'a str> {
    instructions.iter().filter(move |(name, _)| name == kind).map(|(_, arguments)| arguments.as_str())
}

fn ignored_names() -> BTreeSet<String> {
    read(".dockerignore").lines().filter(|line| !line.starts_with('#')).map(|line| line.trim().to_owned()).collect()
}

fn compose() -> Yaml<'static> {
    let text: &'static str = read("docker-compose.yml").leak();
    Yaml::load_from_str(text).unwrap_or_else(|error| panic!("docker-compose.yml: {error}")).remove(0)
}

fn compose_configuration() -> toml::Table {
    read("deploy/compose.toml").parse().unwrap_or_else(|error| panic!("deploy/compose.toml: {error}"))
}

fn strings(list: &Yaml<'_>) -> Vec<String> {
    let list = list.as_sequence().expect("a list");
    list.iter().map(|item| item.as_str().unwrap_or_else(|| panic!("not a string: {item:?}")).to_owned()).collect()
}

/// A port on which one HTTP request is read and answered.
fn answer_once(answer: String) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let port = listener.local_addr().expect("a bound socket").port();
    std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().expect("somebody asks");
        let mut request = Vec::new();
        while !request.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            stream.read_exact(&mut byte).expect("a whole request");
            request.push(byte[0]);
        }
        assert!(request.starts_with(b"GET /readyz "), "{request:?}");
        stream.write_all(answer.as_bytes()).expect("the asker listens");
    });
    port
}

fn host_of(url: &toml::Value) -> String {
    let url = url.as_str().expect("a URL is a string");
    let (host, _) = url.trim_start_matches("redis://").rsplit_once(':').expect("host:port");
    host.to_owned()
}

fn read(name: &str) -> String {
    std::fs::read_to_string(root().join(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).to_path_buf()
}
