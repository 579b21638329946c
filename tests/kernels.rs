//! Every case of the op table, every kernel: GPU = twin, guards intact, poison without effect.

mod common;

use common::gpu;
use qdetr::graph::check::check_case;
use qdetr::kernels::TABLE;

/// Runs the cases of one family and returns how many kernels were compared.
fn run(family: &str) -> usize {
    let family = TABLE.iter().find(|f| f.name == family).expect("a family of the table");
    let (mut compared, mut failures) = (0, Vec::new());
    for case in (family.cases)() {
        if case.needs_f16() && !gpu().capabilities().f16 {
            println!("skipped, this device has no f16: {}", case.name());
            continue;
        }
        for outcome in check_case(gpu(), &case).expect("the device works") {
            compared += 1;
            if let Err(what) = outcome.result {
                failures.push(format!("{} [{}]: {what}", case.name(), outcome.kernel));
            }
        }
    }
    assert!(failures.is_empty(), "{} of {compared} kernels are wrong:\n{}", failures.len(), failures.join("\n"));
    compared
}

macro_rules! families {
    ($($name:ident),* $(,)?) => {
        $(#[test]
        fn $name() {
            let compared = run(stringify!($name));
            assert!(compared >= 8, "only {compared} comparisons");
        })*

        #[test]
        fn every_family_of_the_table_has_a_test() {
            let tested = [$(stringify!($name)),*];
            let missing: Vec<_> = TABLE.iter().map(|f| f.name).filter(|n| !tested.contains(n)).collect();
            assert!(missing.is_empty(), "no test runs {missing:?}");
        }
    };
}

families!(
    attention,
    binary,
    coded,
    concat,
    conv,
    conv_gradient,
    depthwise,
    dropout,
    head_codes,
    head_values,
    heads,
    integer,
    integer_attention,
    layer_norm,
    linear,
    loss,
    matmul,
    normalize,
    optim,
    pool,
    position,
    prior,
    quantize,
    probe,
    reduce,
    scale_shift,
    softmax,
    unary
);
