//! The comet push gateway: arguments, configuration, start, and the end.

use std::fs;
use std::process::ExitCode;

use comet::args::{self, Command, EXIT_USAGE, Serve};
use comet::{App, LogOutput, PidFile, helpers};
use comet_config::{Config, Source};
use comet_control::{Signal, Signals};

fn main() -> ExitCode {
    let args = match args::parse(std::env::args_os()) {
        Ok(args) => args,
        Err(stop) => return stop.report(),
    };
    let done = match &args.command {
        None => return serve(&args.serve),
        Some(Command::Listen(listen)) => helpers::listen(listen),
        Some(Command::Push(push)) => helpers::push(push),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(&error, 1),
    }
}

fn serve(serve: &Serve) -> ExitCode {
    let config = match configure(serve) {
        Ok(config) => config,
        Err(mistakes) => return fail(&mistakes, EXIT_USAGE),
    };
    let done = if serve.check { check(&config) } else { run(serve, &config) };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(&error, 1),
    }
}

fn configure(serve: &Serve) -> Result<Config, String> {
    let machine = comet::machine().map_err(|error| format!("no list of CPUs: {error}"))?;
    let text = match &serve.config {
        Some(path) => Some((
            path.as_path(),
            fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))?,
        )),
        None => None,
    };
    let source = Source {
        file: text.as_ref().map(|(path, text)| (*path, text.as_str())),
        sets: &serve.sets,
        cores: serve.cores.as_deref(),
        control_cores: serve.control_cores.as_deref(),
    };
    comet_config::load(&source, &machine).map_err(|mistakes| mistakes.to_string())
}

fn check(config: &Config) -> Result<(), String> {
    let open_files = comet_net::probe().map_err(|error| error.to_string())?;
    println!("{}\n{}", config.to_toml(), comet::worst_case(config, open_files));
    Ok(())
}

fn run(serve: &Serve, config: &Config) -> Result<(), String> {
    // First: where another comet runs already, nothing is touched.
    let pid_file = config.server.pid_file.as_deref().map(PidFile::claim).transpose()?;
    let log = LogOutput::start(&config.log)?;
    abort_on_panic();
    // Before anything starts: a signal that comes while the cores start is not lost.
    let mut signals = Signals::listen().map_err(|error| error.to_string())?;
    let mut app = App::start(config).map_err(|error| error.to_string())?;
    if let Some(pid_file) = &pid_file {
        pid_file.write()?;
    }
    let signal = loop {
        match signals.wait() {
            Signal::Hangup => reload(serve, &log, &mut app),
            signal => break signal,
        }
    };
    log::info!("{signal}: saying goodbye");
    let ended = app.drain();
    log::info!("{} of {} cores drained in time", ended.drained, ended.cores);
    Ok(())
}

/// Reads the configuration again, in the layers of the start.
fn reload(serve: &Serve, log: &LogOutput, app: &mut App) {
    for reopened in [log.reopen(), app.reopen()] {
        if let Err(error) = reopened {
            log::error!("SIGHUP: {error}");
        }
    }
    let level = app.config().log.level;
    let reloaded = match configure(serve).and_then(|newer| app.reload(&newer)) {
        Ok(reloaded) => reloaded,
        Err(mistakes) => {
            for mistake in mistakes.lines() {
                log::error!("SIGHUP: nothing changes: {mistake}");
            }
            return;
        }
    };
    // Also where the file says the same: somebody else may have changed the level.
    let newer = app.config().log.level;
    if let Err(error) = log.set_level(newer)
        && newer != level
    {
        log::warn!("SIGHUP: {error}");
    }
    for change in &reloaded.alive {
        log::info!("SIGHUP: {change}");
    }
    for change in &reloaded.later {
        log::warn!("SIGHUP: {change}, at the next start");
    }
    if reloaded.alive.is_empty() && reloaded.later.is_empty() {
        log::info!("SIGHUP: no key has changed");
    }
}

/// A core that fails has lost its connections' state; going on without it would hang its clients.
fn abort_on_panic() {
    let report = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        report(panic);
        std::process::abort();
    }));
}

fn fail(error: &dyn std::fmt::Display, code: u8) -> ExitCode {
    eprintln!("comet: {error}");
    ExitCode::from(code)
}
