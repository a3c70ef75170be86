"""From readings to results: windows, the state of the park in each, events, what exchanges amount to.

    readings ──► window ──► observation ──► estimate ──► results, exchanges ──► store
    (the store)  averages   what meters     reconciled   rows
                            say of flows    state  └───► detect ──► events

One reading's way: `window.average`, `observation.observe`, `estimate.Estimator.estimate`, `results.Reporter`.
`chain.Chain` is all of it for one window, without a database; `cycle.process` runs it live, `replay` over files.
`equations` says what must hold in a park, `placement` which meter says what, `balance` is the least squares (a
package of its own, without parks), `detect` has one module an event kind, `account` the sums of the year.
"""
