//! One Redis server: its connection, which is reopened when the server cannot serve, and the deadline of a call.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{ErrorKind, FromRedisValue, Pipeline, RedisError, RedisResult, ScriptInvocation};
use tokio::time::Instant;

use super::deadline;
use super::endpoint::Endpoint;
use super::health::Health;
use crate::error::StoreError;
use crate::sessions::ServerState;

/// Attempts of a call, so that no call fails because a server was restarted, or closed an idle connection.
const ATTEMPTS: u32 = 2;

/// Error codes that are about a command. All others are statements of a server about itself, such as READONLY,
/// MASTERDOWN, CLUSTERDOWN, LOADING, OOM and NOAUTH.
const ABOUT_COMMAND: [&str; 2] = ["ERR", "WRONGTYPE"];

/// Before version 7, an error inside a script has its code in the text of another one.
const INSIDE_SCRIPT: [&str; 7] = [
    "-READONLY ",
    "-MASTERDOWN ",
    "-CLUSTERDOWN ",
    "-LOADING ",
    "-OOM ",
    "-MISCONF ",
    "-NOREPLICAS ",
];

/// A Redis server and the connection to it, which the first call makes.
pub(super) struct RedisNode {
    endpoint: Endpoint,
    timeout: Duration,
    connection: Mutex<CurrentConnection>,
    /// Held while a connection is opened, so that all calls wait for the same one.
    opening: tokio::sync::Mutex<()>,
    health: Health,
}

/// The connection, and the number of earlier ones.
#[derive(Default)]
struct CurrentConnection {
    number: u64,
    open: Option<MultiplexedConnection>,
    /// When the last call over it was served.
    served: Option<Instant>,
}

/// Why an attempt gave no answer.
struct Failure {
    error: RedisError,
    /// Whether its connection is given up.
    is_server_lost: bool,
}

impl RedisNode {
    /// The server at `url`; `ca` is the PEM of the authorities that it may be signed by. It does not
    /// connect yet.
    pub(super) fn new(url: &str, ca: Option<&[u8]>, timeout: Duration) -> Result<Self, StoreError> {
        let endpoint = Endpoint::new(url, ca, timeout)
            .map_err(|sentence| StoreError::BadAddress { sentence })?;
        let (connection, opening) = (Mutex::default(), tokio::sync::Mutex::default());
        Ok(Self { endpoint, timeout, connection, opening, health: Health::default() })
    }

    /// Address and database, without a password. It is also the node's name on the ring.
    pub(super) fn name(&self) -> &str {
        self.endpoint.name()
    }

    pub(super) fn state(&self) -> ServerState {
        self.health.state(self.name())
    }

    /// Runs a script, which must answer by `deadline`.
    pub(super) async fn script<T: FromRedisValue + Send>(
        &self,
        script: &ScriptInvocation<'_>,
        deadline: Instant,
    ) -> Result<T, StoreError> {
        self.call(deadline, async |mut connection| script.invoke_async(&mut connection).await).await
    }

    /// Runs a pipeline, which must answer by `deadline`.
    pub(super) async fn pipeline<T: FromRedisValue + Send>(
        &self,
        pipeline: &Pipeline,
        deadline: Instant,
    ) -> Result<T, StoreError> {
        self.call(deadline, async |mut connection| pipeline.query_async(&mut connection).await)
            .await
    }

    /// Runs `work`, which must answer by `deadline`, and once more over a new connection if the server
    /// cannot serve. [`scripts`](super::scripts) describes the effect of running a script twice.
    /// During the backoff after a failure it fails at once.
    async fn call<T, F>(
        &self,
        deadline: Instant,
        work: impl Fn(MultiplexedConnection) -> F,
    ) -> Result<T, StoreError>
    where
        F: Future<Output = RedisResult<T>>,
    {
        let node = || self.name().to_owned();
        if let Some(sentence) = self.health.backoff_error() {
            return Err(StoreError::Failed { node: node(), sentence });
        }
        // The connection that the call has used last.
        let used = AtomicU64::new(0);
        let attempts = async {
            let mut attempt = 1;
            loop {
                match self.attempt(&work, &used).await {
                    Err(failure) if failure.is_server_lost && attempt < ATTEMPTS => attempt += 1,
                    answer => return answer,
                }
            }
        };
        let Some(answer) = deadline::by(deadline, attempts).await else {
            let timeout = self.timeout;
            let error = StoreError::Deadline { node: node(), timeout };
            if self.is_silent(used.load(Ordering::Relaxed), deadline) {
                self.health.failed(self.name(), &format!("no answer within {timeout:?}"));
            }
            return Err(error);
        };
        match answer {
            Err(Failure { error, is_server_lost }) => {
                let sentence = match error.kind() {
                    ErrorKind::ParseError => "what it answers is not of a Redis".to_owned(),
                    _ => error.to_string(),
                };
                if is_server_lost {
                    self.health.failed(self.name(), &sentence);
                }
                Err(StoreError::Failed { node: node(), sentence })
            }
            Ok(answer) => {
                self.health.succeeded(self.name());
                Ok(answer)
            }
        }
    }

    /// Whether the server has served no call during the time of a call that ends at `deadline`. Then it may be stopped or
    /// unreachable, so the connection that the call has `used` is given up. Otherwise this call alone took too long, or
    /// came late in its time.
    fn is_silent(&self, used: u64, deadline: Instant) -> bool {
        let mut current = self.current();
        let begun = deadline.checked_sub(self.timeout);
        if current.served.is_some_and(|served| begun.is_none_or(|begun| begun <= served)) {
            return false;
        }
        if current.number == used {
            current.open = None;
        }
        true
    }

    async fn attempt<T, F>(
        &self,
        work: impl Fn(MultiplexedConnection) -> F,
        used: &AtomicU64,
    ) -> Result<T, Failure>
    where
        F: Future<Output = RedisResult<T>>,
    {
        let opened = self.connection().await;
        let (number, connection) =
            opened.map_err(|error| Failure { error, is_server_lost: true })?;
        used.store(number, Ordering::Relaxed);
        let answer = work(connection).await;
        let mut current = self.current();
        if answer.is_ok() && current.number == number {
            current.served = Some(Instant::now());
        }
        answer.map_err(|error| {
            let is_server_lost = is_about_server(&error);
            // Another call may have opened a newer one already.
            if is_server_lost && current.number == number {
                current.open = None;
            }
            Failure { error, is_server_lost }
        })
    }

    /// The connection with its number; opens one if there is none.
    async fn connection(&self) -> RedisResult<(u64, MultiplexedConnection)> {
        if let Some(open) = self.current().get() {
            return Ok(open);
        }
        let _opening = self.opening.lock().await;
        // An earlier holder of the lock may have opened it.
        if let Some(open) = self.current().get() {
            return Ok(open);
        }
        let connection = self.endpoint.connect().await?;
        let mut current = self.current();
        current.number += 1;
        (current.open, current.served) = (Some(connection.clone()), None);
        Ok((current.number, connection))
    }

    fn current(&self) -> MutexGuard<'_, CurrentConnection> {
        self.connection.lock().expect("nothing panics while it holds the lock")
    }
}

impl CurrentConnection {
    fn get(&self) -> Option<(u64, MultiplexedConnection)> {
        self.open.clone().map(|open| (self.number, open))
    }
}

/// The error is about the connection or the server, not about the command. Another connection may lead to
/// a server that serves.
fn is_about_server(error: &RedisError) -> bool {
    if matches!(
        error.kind(),
        ErrorKind::IoError | ErrorKind::ParseError | ErrorKind::AuthenticationFailed
    ) {
        return true;
    }
    let text = error.to_string();
    error.code().is_some_and(|code| !ABOUT_COMMAND.contains(&code))
        || INSIDE_SCRIPT.iter().any(|code| text.contains(code))
}

impl fmt::Debug for RedisNode {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_tuple("RedisNode").field(&self.name()).finish()
    }
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU64, Ordering};

    use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
    use tokio::net::{TcpListener, TcpStream};
    use tokio::sync::Notify;

    use super::*;

    #[test]
    fn errors_about_the_server_are_distinguished_from_errors_of_a_command() {
        let check = |reply: &str, is_server: bool| {
            let value = redis::parse_redis_value(format!("-{reply}\r\n").as_bytes());
            let error = value.and_then(redis::Value::extract_error).unwrap_err();
            assert_eq!(is_about_server(&error), is_server, "{reply}: {error:?}");
        };
        for reply in [
            "READONLY You can't write against a read only replica.",
            "MASTERDOWN Link with MASTER is down and replica-serve-stale-data is set to 'no'.",
            "CLUSTERDOWN Hash slot not served",
            "LOADING Redis is loading the dataset in memory",
            "NOAUTH Authentication required.",
            "WRONGPASS invalid username-password pair or user is disabled.",
            "NOPERM this user has no permissions",
            "OOM command not allowed when used memory > 'maxmemory'.",
            "MISCONF Redis is configured to save RDB snapshots",
            "NOREPLICAS Not enough good replicas to write.",
            "NOSCRIPT No matching script. Please use EVAL.",
            "BUSY Redis is busy running a script.",
            "MOVED 3999 127.0.0.1:6381",
            "ERR Error running script (call to f_0): @user_script:5: @user_script: 5: -READONLY You",
        ] {
            check(reply, true);
        }
        check("ERR unknown command 'FOO'", false);
        check("WRONGTYPE Operation against a key holding the wrong kind of value", false);
    }

    /// Answers every command with OK, and HOLD once it is released.
    async fn serve(mut stream: TcpStream, release: Arc<Notify>) -> io::Result<()> {
        let (reading, mut writing) = stream.split();
        let mut reading = BufReader::new(reading).lines();
        while let Some(line) = reading.next_line().await? {
            // "*COUNT", and for each word "$LENGTH" and the word.
            let words: usize = line[1..].parse().expect("the length of an array");
            let mut command = Vec::new();
            for _ in 0..words {
                reading.next_line().await?;
                command.extend(reading.next_line().await?);
            }
            if command[0] == "HOLD" {
                release.notified().await;
            }
            writing.write_all(b"+OK\r\n").await?;
        }
        Ok(())
    }

    /// The last command of a long call gets the rest of its time.
    #[tokio::test]
    async fn a_call_that_is_late_by_itself_is_no_failure_of_the_server() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("redis://{}", listener.local_addr().unwrap());
        let (release, accepted) = (Arc::new(Notify::new()), Arc::new(AtomicU64::new(0)));
        let (gate, count) = (Arc::clone(&release), Arc::clone(&accepted));
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                count.fetch_add(1, Ordering::Relaxed);
                tokio::spawn(serve(stream, Arc::clone(&gate)));
            }
        });
        let timeout = Duration::from_secs(1);
        let node = RedisNode::new(&url, None, timeout).unwrap();
        let call = async |name: &str, deadline| {
            let mut pipeline = Pipeline::new();
            pipeline.cmd(name);
            node.pipeline::<(String,)>(&pipeline, deadline).await
        };
        let deadline = Instant::now() + timeout;
        call("PART", deadline).await.unwrap();
        assert!(matches!(call("HOLD", deadline).await, Err(StoreError::Deadline { .. })));
        assert_eq!((node.state().is_up, node.state().failures), (true, 0));
        release.notify_one();
        call("OTHER", Instant::now() + timeout).await.unwrap();
        assert_eq!(accepted.load(Ordering::Relaxed), 1);
        // A call that got no answer at all is a failure of the server.
        let late = call("HOLD", Instant::now() + timeout).await;
        assert!(matches!(late, Err(StoreError::Deadline { .. })));
        assert_eq!((node.state().is_up, node.state().failures), (false, 1));
    }
}
