//! Reading the configuration again, with all files that it names, in a running server.
//!
//! Reading blocks if a file is on a mount that hangs, or is a pipe without a writer. So a thread of its own reads the files.
//! If the thread that takes signals read them, only SIGKILL could end a server with such a file.

use std::fs;
use std::os::unix::fs::FileTypeExt;
use std::path::Path;
use std::sync::mpsc::{RecvTimeoutError, sync_channel};
use std::thread;
use std::time::Duration;

use comet_config::Config;

use crate::args::Serve;

/// The longest time that a reload waits for its files.
const READ_TIME: Duration = Duration::from_secs(5);

/// Calls `configure`, and reads each file that the configuration names once, so that reading it again does not block.
///
/// # Errors
/// The mistakes of `configure`; or a sentence, if the files cannot be read in time. The blocked thread is then left behind.
pub(crate) fn read(
    configure: fn(&Serve) -> Result<Config, String>,
    serve: &Serve,
) -> Result<Config, String> {
    let (done, config) = sync_channel(1);
    let serve = serve.clone();
    let read = move || {
        let config = configure(&serve).and_then(|config| {
            files(&config).try_for_each(read_whole)?;
            Ok(config)
        });
        // Nobody waits any more if this took too long.
        let _ = done.send(config);
    };
    thread::Builder::new()
        .name("comet-config".to_owned())
        .spawn(read)
        .map_err(|error| format!("no thread to read the configuration: {error}"))?;
    config.recv_timeout(READ_TIME).unwrap_or_else(|error| {
        Err(match error {
            RecvTimeoutError::Timeout => format!(
                "the configuration and its files could not be read within {} s: does a mount hang, or is one of them a pipe?",
                READ_TIME.as_secs()
            ),
            RecvTimeoutError::Disconnected => "the thread that reads the configuration has panicked".to_owned(),
        })
    })
}

/// Whether `file` can be read, now and again. Any other fault is for the caller, that knows what the file is for.
fn read_whole(file: &Path) -> Result<(), String> {
    if fs::metadata(file).is_ok_and(|file| file.file_type().is_fifo()) {
        return Err(format!("{}: it is a pipe, and a reload reads files", file.display()));
    }
    let _ = fs::read(file);
    Ok(())
}

/// The files of settings that change alive.
fn files(config: &Config) -> impl Iterator<Item = &Path> {
    let Config { tls, api_tls, token, .. } = config;
    let lists = [&tls.certificates, &tls.keys, &token.jwt_keys];
    let others = [&api_tls.certificate, &api_tls.key, &api_tls.client_ca, &api_tls.server_ca];
    lists.into_iter().flatten().chain(others.into_iter().flatten()).map(AsRef::as_ref)
}
