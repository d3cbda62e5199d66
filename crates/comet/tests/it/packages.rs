//! The Debian package and the container image, made of the program under test. Servers run from them in their own roots.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use comet::blocking_client::PushClient;
use comet_client::Transport;
use rustix::process::Signal;
use serde_json::Value;

use crate::process::{Server, with_sets};
use crate::scratch;
use crate::support::{Permit, To, push, queued, two_cores};

/// The search path of root, with the `sbin` directories.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// A directory that is removed with the value.
struct Directory(PathBuf);

impl Directory {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("comet-{}-{name}", std::process::id()));
        fs::create_dir(&path).unwrap();
        Self(path)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    fn write(&self, name: &str, text: &str) {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        let plain = path.with_added_extension("text");
        fs::write(&plain, text).unwrap();
        scratch::install(&plain, &path);
        fs::remove_file(plain).unwrap();
    }

    fn read(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap()
    }

    /// Copies a program of this host and its libraries.
    fn add_program(&self, program: &str) {
        self.add_libraries(program);
        self.copy(program);
    }

    fn add_libraries(&self, program: &str) {
        let libraries = output(Command::new("ldd").arg(program));
        libraries
            .split_whitespace()
            .filter(|word| word.starts_with('/'))
            .for_each(|file| self.copy(file));
    }

    /// Copies a file of this host to the same path below the directory.
    fn copy(&self, file: &str) {
        let path = self.path(file.trim_start_matches('/'));
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        scratch::install(Path::new(file), &path);
    }

    /// Starts a server with this directory as its root.
    fn serve(&self, command: &[&str]) -> Server {
        for mounted in ["proc", "sys"] {
            fs::create_dir_all(self.path(mounted)).unwrap();
        }
        let permit = Permit::wait();
        let run = "mount --rbind /proc \"$0/proc\" && mount --rbind /sys \"$0/sys\" && \
                   exec chroot \"$0\" \"$@\"";
        let mut unshared = as_root("sh");
        unshared.args(["-c", run]).arg(&self.0).args(command);
        unshared.args(["--cores", &two_cores()]).args(with_sets(&["server.pid_file=\"/run/pid\""]));
        Server::launch(unshared, permit)
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        fs::remove_dir_all(&self.0).unwrap();
    }
}

/// A program that has the user ID of root, in namespaces of its own.
fn as_root(program: &str) -> Command {
    let mut command = Command::new("unshare");
    command.args(["--map-root-user", "--mount", program]);
    command.env_clear().env("PATH", PATH).stdin(Stdio::null());
    command
}

/// Standard output of a command that must succeed.
#[track_caller]
fn output(command: &mut Command) -> String {
    let Output { status, stdout, stderr } = command.output().unwrap();
    assert!(status.success(), "{command:?}: {}", String::from_utf8_lossy(&stderr));
    String::from_utf8(stdout).unwrap()
}

/// Whether all of the programs are installed and namespaces may be created. If not, the test writes a line about it.
fn can_test(programs: &[&str]) -> bool {
    let are_installed = programs.iter().all(|program| {
        let version = Command::new(program).arg("--version").output();
        version.is_ok_and(|version| version.status.success())
    });
    let may_unshare = as_root("true").output().is_ok_and(|output| output.status.success());
    if !(are_installed && may_unshare) {
        eprintln!("SKIPPED: one of {programs:?} is missing, or namespaces may not be created");
    }
    are_installed && may_unshare
}

/// Runs one of the scripts that make packages. Returns the path of the package.
fn make(script: &str, programs: &Path, packages: &Path, version: &str) -> String {
    let script = format!("{}/packaging/{script}", env!("CARGO_MANIFEST_DIR"));
    let mut script = Command::new(script);
    script.arg("-b").arg(programs).arg("-o").arg(packages).args(["-v", version]);
    // The packages are not kept, so compression would only take time.
    script.env("DPKG_DEB_COMPRESSOR_TYPE", "none").env("SOURCE_DATE_EPOCH", "1700000000");
    output(&mut script).trim().to_owned()
}

/// The programs of a package. `comet-bench` is replaced, as it belongs to another crate.
fn programs(name: &str) -> Directory {
    let programs = Directory::new(name);
    // The symbols of a debug build would be most of the package.
    let comet = programs.path("comet");
    output(Command::new("strip").arg("-o").arg(&comet).arg(env!("CARGO_BIN_EXE_comet")));
    symlink("/bin/true", programs.path("comet-bench")).unwrap();
    programs
}

/// A root directory with a shell. The programs that package scripts call are replaced by ones that write down their arguments.
fn host() -> Directory {
    let host = Directory::new("host");
    for program in ["/bin/sh", "/bin/rm"] {
        host.add_program(program);
    }
    host.add_libraries(env!("CARGO_BIN_EXE_comet"));
    let note = "#!/bin/sh\necho \"${0##*/} $*\" >>/calls\n";
    let systemctl = format!("{note}[ \"$1\" != show ] || {{ read pid </run/pid && echo $pid; }}\n");
    host.write("usr/bin/systemctl", &systemctl);
    host.write("usr/bin/systemd-sysusers", note);
    let stop = format!("{note}read pid </run/pid\nkill -TERM $pid\n");
    host.write("usr/bin/deb-systemd-invoke", &stop);
    for directory in ["dev", "run/systemd/system", "var/lib/dpkg/info", "var/lib/dpkg/updates"] {
        fs::create_dir_all(host.path(directory)).unwrap();
    }
    host.write("var/lib/dpkg/status", "");
    host
}

/// Runs dpkg on a host. Returns its output, and the calls of its scripts.
fn dpkg(host: &Directory, arguments: &[&str]) -> (String, String) {
    host.write("calls", "");
    let mut dpkg = as_root("dpkg");
    // The libraries are present, but not as packages.
    dpkg.arg("--root").arg(&host.0).args(["--force-depends", "--log=/dev/null"]).args(arguments);
    let printed = output(dpkg.env("DEBIAN_FRONTEND", "noninteractive"));
    (printed, host.read("calls"))
}

#[track_caller]
fn check_serves(server: &Server) {
    let peer = server.live(Transport::Tcp, "1");
    let caller = PushClient::connect(&server.grpc.to_string()).unwrap();
    assert_eq!(push(&caller, To::User(1), 5, b"hello"), queued(1));
    drop(peer);
}

#[test]
fn a_package_can_be_upgraded_under_a_running_server_and_removed() {
    if !can_test(&["dpkg", "dpkg-deb", "strip", "objdump"]) {
        return;
    }
    let (programs, packages, host) = (programs("programs"), Directory::new("packages"), host());
    let [first, second] =
        ["1.0.0", "2.0.0"].map(|version| make("deb", &programs.0, &packages.0, version));
    let bytes = fs::read(&first).unwrap();
    assert_eq!(make("deb", &programs.0, &packages.0, "1.0.0"), first);
    assert!(fs::read(&first).unwrap() == bytes, "two builds differ");

    let (printed, calls) = dpkg(&host, &["--install", &first]);
    assert_eq!(calls, "systemd-sysusers comet.conf\nsystemctl daemon-reload\n");
    assert!(printed.contains("systemctl enable --now comet"), "{printed}");
    for file in [
        "usr/bin/comet-bench",
        "usr/lib/systemd/system/comet.service",
        "usr/lib/systemd/system/comet-logic.service",
        "usr/lib/sysusers.d/comet.conf",
        "usr/share/man/man1/comet.1.gz",
        "usr/share/bash-completion/completions/comet",
        "usr/share/comet/prometheus/rules.yml",
        "usr/share/comet/grafana.json",
        "usr/share/doc/comet/copyright",
    ] {
        assert!(host.path(file).is_file(), "{file}");
    }
    check_links(&first);
    // Above all, the operator's changes stay.
    let settings = host.read("etc/comet/comet.toml") + "# the operator was here\n";
    fs::write(host.path("etc/comet/comet.toml"), &settings).unwrap();

    let server = host.serve(&["/usr/bin/comet", "--config", "/etc/comet/comet.toml"]);
    check_serves(&server);
    let mut client = server.live(Transport::Tcp, "7");
    let (printed, calls) = dpkg(&host, &["--install", &second]);
    let expected = "systemd-sysusers comet.conf\nsystemctl daemon-reload\n\
        systemctl is-active --quiet comet.service\n\
        systemctl show --property MainPID --value comet.service\n\
        systemctl is-active --quiet comet-logic.service\n";
    assert_eq!(calls, expected, "no service is restarted");
    let told = "comet-logic goes on as version 1.0.0 until you restart it: systemctl restart comet-logic\n";
    assert!(printed.contains(told) && !printed.contains("comet: comet goes on"), "{printed}");
    assert!(printed.contains("serves: 1 connections go on after a pause of "), "{printed}");
    assert_eq!(host.read("etc/comet/comet.toml"), settings);
    let pid = host.read("run/pid");
    assert_ne!(pid.trim(), server.pid());
    let program = fs::read_link(format!("/proc/{}/exe", pid.trim())).unwrap();
    assert!(!program.to_str().unwrap().ends_with(" (deleted)"), "{program:?}");
    let caller = PushClient::connect(&server.grpc.to_string()).unwrap();
    assert_eq!(push(&caller, To::User(7), 5, b"hello"), queued(1));
    assert_eq!(client.recv().body, b"hello");
    check_serves(&server);

    let (_, calls) = dpkg(&host, &["--remove", "comet"]);
    let stop =
        "deb-systemd-invoke stop comet.service comet-logic.service\nsystemctl daemon-reload\n";
    assert_eq!(calls, stop);
    let (code, logged) = server.end();
    assert_eq!(code, Some(0), "{logged:?}");
    assert!(!host.path("usr/bin/comet").exists());
    assert_eq!(host.read("etc/comet/comet.toml"), settings);
    dpkg(&host, &["--purge", "comet"]);
    assert!(!host.path("etc/comet").exists());
}

/// The documents of a package must link only to each other, as other documents may be missing on a server. Containers often leave
/// all of them out.
#[track_caller]
fn check_links(package: &str) {
    let files = Directory::new("package-files");
    output(Command::new("dpkg-deb").args(["--extract", package]).arg(&files.0));
    let (mut folders, mut links) = (vec![files.path("usr/share/doc/comet")], 0);
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "md") {
                let text = fs::read_to_string(&path).unwrap();
                for target in links_in(&text).filter(|target| target.ends_with(".md")) {
                    let found = path.with_file_name(target);
                    assert!(found.is_file(), "{}: {target}", path.display());
                    links += 1;
                }
            }
        }
    }
    assert!(links > 100, "only {links} links were found");
}

/// Targets of Markdown links to other files of the same tree, without their anchors.
fn links_in(text: &str) -> impl Iterator<Item = &str> {
    let targets = text.split("](").skip(1).filter_map(|rest| rest.split([')', '#']).next());
    targets.filter(|target| !target.contains("://"))
}

#[test]
fn image_builds_are_reproducible_and_the_image_serves() {
    if !can_test(&["tar", "gzip", "strip", "ldd"]) {
        return;
    }
    let (programs, packages) = (programs("image-programs"), Directory::new("images"));
    let image = make("image", &programs.0, &packages.0, "1.0.0");
    let bytes = fs::read(&image).unwrap();
    assert_eq!(make("image", &programs.0, &packages.0, "1.0.0"), image);
    assert!(fs::read(&image).unwrap() == bytes, "two builds differ");
    drop(bytes);
    read_by_skopeo(&image, &packages);

    let layout = Directory::new("layout");
    output(Command::new("tar").args(["--extract", "--file", &image, "--directory"]).arg(&layout.0));
    let json = |name: &str| -> Value { serde_json::from_str(&layout.read(name)).unwrap() };
    let blob = |descriptor: &Value| {
        let hash = descriptor["digest"].as_str().unwrap().strip_prefix("sha256:").unwrap();
        let name = format!("blobs/sha256/{hash}");
        let bytes = fs::read(layout.path(&name)).unwrap();
        assert_eq!(descriptor["size"], bytes.len());
        let digest = ring::digest::digest(&ring::digest::SHA256, &bytes);
        let digest: String = digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(digest, hash);
        name
    };
    assert_eq!(json("oci-layout")["imageLayoutVersion"], "1.0.0");
    let manifest = json(&blob(&json("index.json")["manifests"][0]));
    let (config_name, layer) = (blob(&manifest["config"]), blob(&manifest["layers"][0]));
    // The format of docker before version 25 names the same files.
    let legacy = &json("manifest.json")[0];
    assert_eq!(
        (&legacy["Config"], &legacy["Layers"][0]),
        (&Value::from(&*config_name), &Value::from(&*layer))
    );
    let config = &json(&config_name)["config"];
    assert_eq!(config["User"], "65532:65532");
    assert_eq!(config["Labels"]["org.opencontainers.image.version"], "1.0.0");

    let root = Directory::new("image");
    let layer = layout.path(&layer);
    output(
        Command::new("tar")
            .arg("--extract")
            .arg("--gzip")
            .arg("--file")
            .arg(layer)
            .arg("--directory")
            .arg(&root.0),
    );
    assert!(!root.path("bin/sh").exists(), "the image has only comet");
    let words = [&config["Entrypoint"], &config["Cmd"]].map(|words| words.as_array().unwrap());
    let command: Vec<_> = words.into_iter().flatten().map(|word| word.as_str().unwrap()).collect();
    fs::create_dir(root.path("run")).unwrap();
    let server = root.serve(&command);
    check_serves(&server);
    server.signal(Signal::TERM);
    assert_eq!(server.end().0, Some(0));
}

/// Reads both formats of an image with skopeo, where it is installed.
fn read_by_skopeo(image: &str, folder: &Directory) {
    for form in ["docker-archive", "oci-archive"] {
        let copy = folder.path(form);
        let mut skopeo = Command::new("skopeo");
        skopeo.args(["--insecure-policy", "copy", &format!("{form}:{image}")]);
        match skopeo.arg(format!("dir:{}", copy.display())).output() {
            Ok(output) => {
                assert!(output.status.success(), "{output:?}");
                let manifest = fs::read(copy.join("manifest.json")).unwrap();
                let manifest: Value = serde_json::from_slice(&manifest).unwrap();
                assert_eq!(manifest["layers"].as_array().unwrap().len(), 1);
            }
            Err(error) => eprintln!("SKIPPED: no skopeo ({error})"),
        }
    }
}

/// With `ProtectSystem=strict` a unit may write only to its own directories. systemd removes this one when the unit stops.
#[test]
fn each_unit_has_its_own_directory_for_unix_sockets() {
    for (unit, expected) in [("comet", "comet"), ("comet-logic", "comet-logic")] {
        let path = format!("{}/packaging/{unit}.service", env!("CARGO_MANIFEST_DIR"));
        let text = fs::read_to_string(path).unwrap();
        assert!(text.contains("\nProtectSystem=strict\n"), "{unit}");
        let folders = text.lines().filter_map(|line| line.strip_prefix("RuntimeDirectory="));
        assert_eq!(folders.collect::<Vec<_>>(), [expected], "{unit}");
    }
}

/// Container runtimes refuse io_uring by default, so the profile has to allow it.
#[test]
fn the_seccomp_profile_allows_io_uring() {
    let profile = format!("{}/packaging/seccomp.json", env!("CARGO_MANIFEST_DIR"));
    let profile: Value = serde_json::from_slice(&fs::read(profile).unwrap()).unwrap();
    assert_eq!(profile["defaultAction"], "SCMP_ACT_ERRNO");
    let allowed = &profile["syscalls"][0];
    assert_eq!(allowed["action"], "SCMP_ACT_ALLOW");
    let names: Vec<_> =
        allowed["names"].as_array().unwrap().iter().map(|name| name.as_str().unwrap()).collect();
    for name in
        ["io_uring_setup", "io_uring_enter", "io_uring_register", "sched_setaffinity", "execve"]
    {
        assert!(names.contains(&name), "{name}");
    }
    for name in ["mount", "ptrace", "bpf", "unshare", "setns"] {
        assert!(!names.contains(&name), "{name}");
    }
}
