use std::{net::IpAddr, time::Duration};

use super::ms;
use crate::emulator::{Climate, LinkModel, LossRate, Spell, Topology, Weather, paper_sites, play};

const HOURS_62: Duration = Duration::from_secs(62 * 3_600);

#[test]
fn sixty_two_hours_look_like_the_papers() {
    let sites = paper_sites();
    let [mit, utah, arosnet] = ["mit", "utah", "arosnet"].map(|name| sites.address(name));
    for seed in 0..10 {
        let weather = Weather::paper(seed, HOURS_62);
        let rtt = |a: IpAddr, b: IpAddr, t| {
            let one_way = |from, to| weather.at(from, to, t).unwrap().mean_delay();
            one_way(a, b) + one_way(b, a)
        };
        let samples: Vec<_> = times(HOURS_62)
            .map(|t| (rtt(mit, arosnet, t), rtt(mit, utah, t) + rtt(utah, arosnet, t)))
            .collect();
        let count = u32::try_from(samples.len()).unwrap();
        let direct = samples.iter().map(|s| s.0).sum::<Duration>() / count;
        let via_utah = samples.iter().map(|s| s.1).sum::<Duration>() / count;
        let faster = samples.iter().filter(|s| s.1 < s.0).count() as f64 / f64::from(count);
        assert!((ms(93)..ms(102)).contains(&direct), "seed {seed}: direct {direct:?}");
        assert!((ms(67)..ms(71)).contains(&via_utah), "seed {seed}: via Utah {via_utah:?}");
        assert!((0.90..0.95).contains(&faster), "seed {seed}: faster in {faster}");
    }
}

#[test]
fn long_lossy_episodes_last_half_an_hour_and_reach_30_percent() {
    let sites = paper_sites();
    let (mit, arosnet) = (sites.address("mit"), sites.address("arosnet"));
    let mut worst = LossRate::ZERO;
    for seed in 0..10 {
        let weather = Weather::paper(seed, HOURS_62);
        let loss = |t| weather.at(mit, arosnet, t).unwrap().loss.mean();
        let bad: Vec<bool> =
            times(HOURS_62).map(|t| loss(t) > LossRate::from_percent(6.0)).collect();
        let longest = bad.split(|bad| !bad).map(<[bool]>::len).max().unwrap_or(0);
        assert!(longest >= 30, "seed {seed}: {longest} half minutes");
        worst = times(HOURS_62).map(loss).fold(worst, |a, b| if a < b { b } else { a });
    }
    assert!(worst > LossRate::from_percent(28.0), "{worst}");
}

#[test]
fn equal_seeds_give_equal_weather_and_others_do_not() {
    let hours = Duration::from_secs(6 * 3_600);
    assert_eq!(Weather::paper(3, hours), Weather::paper(3, hours));
    assert_ne!(Weather::paper(3, hours), Weather::paper(4, hours));
}

#[test]
fn a_full_access_is_felt_on_all_paths_of_its_site_at_the_same_time() {
    let model = LinkModel::new(ms(10));
    let sites = Topology::new(["a", "b", "c"])
        .both("a", "b", model)
        .both("b", "c", model)
        .both("a", "c", model);
    let [a, b, c] = ["a", "b", "c"].map(|name| sites.address(name));
    let shared = Climate { shared: vec![Spell::full_access()], ..Climate::default() };
    let weather = Weather::new(1, HOURS_62, &sites, |path| {
        if [path.from, path.to].contains(&a) { shared.clone() } else { Climate::default() }
    });
    let extra = |from, to, t| weather.at(from, to, t).unwrap().delay - ms(10);
    let mut together = 0;
    for t in times(HOURS_62) {
        assert_eq!(extra(a, b, t), extra(b, a, t));
        assert_eq!(extra(b, c, t), Duration::ZERO);
        together += u32::from(!extra(a, b, t).min(extra(a, c, t)).is_zero());
    }
    assert!(together > 10, "{together}");
}

#[test]
fn the_rhythm_is_least_at_the_start_and_most_after_12_hours() {
    let sites = Topology::new(["a", "b"]).both("a", "b", LinkModel::new(ms(10)));
    let climate = Climate { diurnal: ms(20), ..Climate::default() };
    let weather = Weather::new(1, HOURS_62, &sites, |_| climate.clone());
    let [a, b] = ["a", "b"].map(|name| sites.address(name));
    for (hours, delay) in [(0, ms(10)), (6, ms(20)), (12, ms(30)), (24, ms(10))] {
        assert_eq!(weather.at(a, b, Duration::from_secs(hours * 3_600)).unwrap().delay, delay);
    }
    assert_eq!(weather.at(a, a, Duration::ZERO), None);
}

#[tokio::test(start_paused = true)]
async fn played_weather_ends_where_the_forecast_says() {
    let hour = Duration::from_secs(3_600);
    let weather = Weather::paper(1, hour);
    let internet = paper_sites().build(1);
    let events = weather.events();
    assert!(events.is_sorted_by_key(|event| event.at));
    play(internet.clone(), events).await;
    for path in paper_sites().paths() {
        let expected = weather.at(path.from, path.to, hour).unwrap();
        assert_eq!(internet.model(path.from, path.to), expected);
    }
}

/// Each half minute.
fn times(length: Duration) -> impl Iterator<Item = Duration> {
    (0..length.as_secs() / 30).map(|step| Duration::from_secs(30 * step))
}
