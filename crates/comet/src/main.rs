//! The comet push gateway: arguments, configuration, start, and the end.

use std::fs;
use std::process::ExitCode;

use comet::args::{self, Command, EXIT_USAGE, Serve};
use comet::{App, helpers};
use comet_config::{Config, Source};
use comet_control::Signals;

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
    if serve.check {
        return check(&config);
    }
    log_to_stderr(&config);
    abort_on_panic();
    // Before anything starts: a signal that comes while the cores start is not lost.
    let mut signals = match Signals::listen() {
        Ok(signals) => signals,
        Err(error) => return fail(&error, 1),
    };
    let app = match App::start(&config) {
        Ok(app) => app,
        Err(error) => return fail(&error, 1),
    };
    let signal = signals.wait();
    log::info!("{signal}: saying goodbye");
    let ended = app.drain();
    log::info!("{} of {} cores drained in time", ended.drained, ended.cores);
    ExitCode::SUCCESS
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

fn check(config: &Config) -> ExitCode {
    match comet_net::probe() {
        Ok(open_files) => {
            println!("{}\n{}", config.to_toml(), comet::worst_case(config, open_files));
            ExitCode::SUCCESS
        }
        Err(error) => fail(&error, 1),
    }
}

fn log_to_stderr(config: &Config) {
    let default = env_logger::Env::default().default_filter_or(config.log.level.label());
    env_logger::Builder::from_env(default).format_timestamp_millis().init();
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
