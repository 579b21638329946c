// What the focal loss of one logit is made of. `wrong` is the logit of being wrong: −x where the class is wanted, x elsewhere.

struct Terms {
    // sigmoid(wrong), and 1 less that without cancellation.
    q: f32,
    rest: f32,
    // log(1 + exp(wrong)): the cross-entropy.
    surprise: f32,
    // q^γ
    power: f32,
}

// log(1 + e) for 0 <= e <= 1; small e would drown in the 1.
fn log_of_one_and(e: f32) -> f32 {
    return select(log(1.0 + e), e * (1.0 - e * (0.5 - e / 3.0)), e < 0.01);
}

fn terms(wrong: f32, gamma: f32) -> Terms {
    let e = exp(-abs(wrong));
    let small = e / (1.0 + e);
    let large = 1.0 / (1.0 + e);
    let tail = log_of_one_and(e);
    let surprise = max(wrong, 0.0) + tail;
    // log q = −log(1 + exp(−wrong)), so that no power of 0 is asked for.
    let power = exp(-gamma * (max(-wrong, 0.0) + tail));
    return Terms(select(small, large, wrong >= 0.0), select(large, small, wrong >= 0.0), surprise, power);
}
