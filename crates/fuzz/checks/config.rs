//! Files of configuration: a checked configuration, which is printed and read back the same, or mistakes.

use std::path::Path;

use comet_config::{Config, Machine, Mistakes, Source};

pub(crate) fn check(input: &[u8]) {
    let Ok(text) = str::from_utf8(input) else { return };
    // A name may be looked up at a name server.
    if text.contains("bind") || text.contains("grpc") || text.contains("http") {
        return;
    }
    match load(text) {
        Ok(config) => {
            let printed = config.to_toml();
            match load(&printed) {
                Ok(again) => assert_eq!(again.to_toml(), printed),
                Err(mistakes) => panic!("{mistakes}\n{printed}"),
            }
        }
        Err(mistakes) => assert!(!mistakes.to_string().is_empty()),
    }
}

fn load(text: &str) -> Result<Config, Mistakes> {
    let machine = Machine { cpus: vec![0, 1], host_name: "host".to_owned() };
    let file = Some((Path::new("comet.toml"), text));
    comet_config::load(&Source { file, ..Source::default() }, &machine)
}
