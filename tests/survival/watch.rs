//! Fails a test for what its log and its tasks say: an ERROR, or a panic that a task swallowed.

use std::{
    cell::{Cell, RefCell},
    fmt,
    sync::{Once, OnceLock},
    time::Duration,
};

use tokio::time::Instant;
use tracing::{
    Event, Subscriber,
    field::{Field, Visit},
};
use tracing_subscriber::{
    EnvFilter, Layer,
    filter::LevelFilter,
    fmt::{format::Writer, time::FormatTime},
    layer::Context,
    layer::SubscriberExt,
    util::SubscriberInitExt,
};

thread_local! {
    /// What went wrong on this thread; each test in virtual time has one thread of its own.
    static WRONG: RefCell<Vec<String>> = const { RefCell::new(Vec::new()) };
    /// When the scenario began, in its virtual time.
    static BEGAN: Cell<Option<Instant>> = const { Cell::new(None) };
}

/// Watches this thread from now on; [`Watch::check`] fails the test if anything went wrong.
pub(crate) struct Watch(());

impl Watch {
    pub(crate) fn begin() -> Self {
        static SET_UP: Once = Once::new();
        SET_UP.call_once(|| {
            let log = std::env::var("RON_TEST_LOG").ok().map(|filter| {
                tracing_subscriber::fmt::layer()
                    .with_test_writer()
                    .with_timer(VirtualTime)
                    .with_filter(EnvFilter::new(filter))
            });
            // Without the filter every span and event of all levels is made for nothing, which
            // takes as long as the scenarios themselves.
            let errors = Errors.with_filter(LevelFilter::ERROR);
            tracing_subscriber::registry().with(errors).with(log).init();
            static BEFORE: OnceLock<()> = OnceLock::new();
            BEFORE.get_or_init(|| {
                let before = std::panic::take_hook();
                std::panic::set_hook(Box::new(move |panic| {
                    note(format!("panic: {panic}"));
                    before(panic);
                }));
            });
        });
        WRONG.with_borrow_mut(Vec::clear);
        BEGAN.set(Some(Instant::now()));
        Self(())
    }

    pub(crate) fn check(&self, what: &str) {
        let wrong = WRONG.with_borrow_mut(std::mem::take);
        assert!(wrong.is_empty(), "{what}: {wrong:#?}");
    }
}

fn note(wrong: String) {
    WRONG.with_borrow_mut(|all| all.push(wrong));
}

/// Stamps a log's lines with the scenario's own time.
struct VirtualTime;

impl FormatTime for VirtualTime {
    fn format_time(&self, w: &mut Writer<'_>) -> fmt::Result {
        let since = BEGAN.get().map_or(Duration::ZERO, |began| began.elapsed());
        write!(w, "{:>9.3}", since.as_secs_f64())
    }
}

struct Errors;

impl<S: Subscriber> Layer<S> for Errors {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let mut text = Text(event.metadata().target().to_owned());
        event.record(&mut text);
        note(text.0);
    }
}

struct Text(String);

impl Visit for Text {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.0.push_str(&format!(" {field}={value:?}"));
    }
}

#[tokio::test(start_paused = true)]
async fn an_error_in_the_log_fails_a_scenario_and_a_warning_does_not() {
    let watch = Watch::begin();
    tracing::warn!("a warning");
    assert_eq!(WRONG.with_borrow(Vec::len), 0);
    tracing::error!("an error");
    assert_eq!(WRONG.with_borrow_mut(std::mem::take), ["survival::watch message=an error"]);
    watch.check("nothing is left");
}
