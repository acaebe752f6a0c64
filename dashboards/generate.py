#!/usr/bin/env python3
"""Writes the boards beside this file: overview.json, machine.json, fleet.json.

    dashboards/generate.py            writes them
    dashboards/generate.py --check    exits 1 if one of them is not what would be written

A board here is rows of panels, a panel is a title, what it tells, a unit and its queries; Grafana's JSON is what is the same for all.
"""

import json
import pathlib
import sys

HERE = pathlib.Path(__file__).parent
RUNBOOK = "https://github.com/fleetdrain/fleetdrain/blob/main/docs/runbook.md"
DATASOURCE = {"type": "prometheus", "uid": "${datasource}"}
BOARDS = {"overview": "Overview", "machine": "Machine", "fleet": "Fleet"}
DRAIN = 'job=~"$job",instance=~"$drain"'

GREEN, YELLOW, RED, BLUE = "green", "yellow", "red", "blue"


def steps(*bounds):
    """Thresholds: green below the first bound, then each bound's colour."""
    return [{"color": GREEN, "value": None}] + [{"color": colour, "value": value} for value, colour in bounds]


LOSS = steps((1e-9, RED))  # One line is one too many.


def query(expr, legend="", instant=False, form="time_series"):
    """`{}` in an expression stands for the drains that the board is set to."""
    expr = expr.replace("{}", "{" + DRAIN + "}").replace("{,", "{" + DRAIN + ",")
    asked = {"datasource": DATASOURCE, "editorMode": "code", "expr": expr, "format": form, "legendFormat": legend or "__auto"}
    return asked | ({"instant": True, "range": False} if instant else {"range": True})


def panel(kind, title, what, unit, queries, thresholds=None, width=8, height=8, options=None, custom=None, signed=False, **more):
    defaults = {
        "unit": unit,
        "color": {"mode": "thresholds" if kind in ("stat", "bargauge") else "palette-classic"},
        "thresholds": {"mode": "absolute", "steps": thresholds or steps()},
        "custom": custom or {},
        "mappings": [],
    } | ({} if signed else {"min": 0})
    targets = [asked | {"refId": chr(ord("A") + at)} for at, asked in enumerate(queries)]
    return {
        "type": kind,
        "title": title,
        "description": what,
        "datasource": DATASOURCE,
        "fieldConfig": {"defaults": defaults, "overrides": more.pop("overrides", [])},
        "options": options or {},
        "targets": targets,
        "transformations": more.pop("transformations", []),
        "links": more.pop("links", []),
        "gridPos": {"w": width, "h": height},
    }


def series(title, what, unit, *queries, stack=False, thresholds=None, **more):
    custom = {
        "drawStyle": "line",
        "fillOpacity": 20 if stack else 8,
        "lineWidth": 1,
        "showPoints": "never",
        "spanNulls": False,
        "stacking": {"group": "A", "mode": "normal" if stack else "none"},
        "thresholdsStyle": {"mode": "line" if thresholds else "off"},
    }
    options = {
        "legend": {"calcs": ["lastNotNull", "max"], "displayMode": "table", "placement": "bottom", "showLegend": True},
        "tooltip": {"mode": "multi", "sort": "desc"},
    }
    return panel("timeseries", title, what, unit, queries, thresholds, options=options, custom=custom, **more)


REDUCE = {"calcs": ["lastNotNull"], "fields": "", "values": False}


def stat(title, what, unit, expr, thresholds=None, width=4, **more):
    options = {
        "colorMode": "value",
        "graphMode": "area",
        "justifyMode": "auto",
        "orientation": "auto",
        "reduceOptions": REDUCE,
        "textMode": "auto",
    }
    return panel("stat", title, what, unit, [query(expr, title)], thresholds, width, 4, options, **more)


def bars(title, what, unit, *queries, thresholds=None, **more):
    options = {
        "displayMode": "gradient",
        "orientation": "horizontal",
        "reduceOptions": REDUCE,
        "showUnfilled": True,
        "valueMode": "color",
    }
    return panel("bargauge", title, what, unit, queries, thresholds, options=options, **more)


def heat(title, what, expr, **more):
    options = {
        "calculate": False,
        "cellGap": 1,
        "color": {"exponent": 0.5, "fill": "dark-orange", "mode": "scheme", "scale": "exponential", "scheme": "Oranges", "steps": 64},
        "filterValues": {"le": 1e-9},
        "legend": {"show": True},
        "rowsFrame": {"layout": "auto"},
        "tooltip": {"mode": "single", "showColorScale": False, "yHistogram": False},
        "yAxis": {"axisPlacement": "left", "reverse": False, "unit": "s"},
    }
    return panel("heatmap", title, what, "short", [query(expr, "{{le}}", form="heatmap")], options=options, **more)


def table(title, what, unit, expr, columns, thresholds=None, **more):
    """An instant query as rows: `columns` names labels in their order, the value comes last."""
    names = {label: name for label, name in columns} | {"Value": title}
    order = {name: at for at, name in enumerate(names)}
    transformations = [
        {"id": "organize", "options": {"excludeByName": {"Time": True}, "indexByName": order, "renameByName": names}},
        {"id": "sortBy", "options": {"fields": {}, "sort": [{"desc": True, "field": title}]}},
    ]
    options = {"cellHeight": "sm", "footer": {"countRows": False, "fields": "", "reducer": ["sum"], "show": False}, "showHeader": True}
    custom = {"align": "auto", "cellOptions": {"type": "auto"}, "inspect": False}
    asked = [query(expr, instant=True, form="table")]
    return panel("table", title, what, unit, asked, thresholds, options=options, custom=custom, transformations=transformations, **more)


def board(name, rows, variables, what):
    """Lays rows out from left to right and from the top down."""
    panels, y = [], 0
    for title, content in rows:
        panels.append(
            {
                "type": "row",
                "title": title,
                "collapsed": False,
                "gridPos": {"h": 1, "w": 24, "x": 0, "y": y},
                "panels": [],
            }
        )
        x, y, tallest = 0, y + 1, 0
        for one in content:
            place = one["gridPos"]
            if x + place["w"] > 24:
                x, y, tallest = 0, y + tallest, 0
            place |= {"x": x, "y": y}
            x, tallest = x + place["w"], max(tallest, place["h"])
            panels.append(one)
        y += tallest
    for at, one in enumerate(panels, 1):
        one["id"] = at
    links = [
        {
            "asDropdown": False,
            "icon": "dashboard",
            "includeVars": True,
            "keepTime": True,
            "tags": [],
            "targetBlank": False,
            "title": title,
            "tooltip": "",
            "type": "link",
            "url": f"/d/fleetdrain-{other}",
        }
        for other, title in BOARDS.items()
        if other != name
    ]
    links.append(links[0] | {"icon": "doc", "includeVars": False, "keepTime": False, "targetBlank": True, "title": "Runbook", "url": RUNBOOK})
    restarts = {
        "datasource": DATASOURCE,
        "enable": True,
        "expr": f"changes(process_start_time_seconds{{{DRAIN}}}[$__rate_interval]) > 0",
        "hide": False,
        "iconColor": "orange",
        "name": "Restarts",
        "titleFormat": "restarted",
        "textFormat": "{{instance}}",
    }
    inputs = [
        {
            "name": "DS_PROMETHEUS",
            "label": "Prometheus",
            "description": "The Prometheus that scrapes the drains",
            "type": "datasource",
            "pluginId": "prometheus",
            "pluginName": "Prometheus",
        }
    ]
    kinds = sorted({one["type"] for one in panels if one["type"] != "row"})
    requires = [
        {"type": "grafana", "id": "grafana", "name": "Grafana", "version": "11.0.0"},
        {"type": "datasource", "id": "prometheus", "name": "Prometheus", "version": "1.0.0"},
    ] + [{"type": "panel", "id": kind, "name": kind, "version": ""} for kind in kinds]
    return {
        "__inputs": inputs,
        "__requires": requires,
        "annotations": {"list": [restarts]},
        "description": what,
        "editable": True,
        "fiscalYearStartMonth": 0,
        "graphTooltip": 1,
        "id": None,
        "links": links,
        "panels": panels,
        "refresh": "30s",
        "schemaVersion": 39,
        "tags": ["fleetdrain"],
        "templating": {"list": [datasource()] + variables},
        "time": {"from": "now-1h", "to": "now"},
        "timepicker": {},
        "timezone": "browser",
        "title": f"fleetdrain / {BOARDS[name]}",
        "uid": f"fleetdrain-{name}",
        "version": 1,
        "weekStart": "",
    }


def datasource():
    return {
        # An import asks for it; provisioned, the name stands for nothing and Grafana takes its default.
        "current": {"selected": False, "text": "Prometheus", "value": "${DS_PROMETHEUS}"},
        "hide": 0,
        "includeAll": False,
        "label": "Data source",
        "multi": False,
        "name": "datasource",
        "options": [],
        "query": "prometheus",
        "refresh": 1,
        "regex": "",
        "skipUrlSync": False,
        "type": "datasource",
    }


def variable(name, label, expr, many=True):
    expr = expr.replace("{}", "{" + DRAIN + "}")
    everything = {"selected": True, "text": ["All"], "value": ["$__all"]}
    return {
        **({"allValue": ".*"} if many else {}),
        "current": everything if many else {},
        "datasource": DATASOURCE,
        "definition": expr,
        "hide": 0,
        "includeAll": many,
        "label": label,
        "multi": many,
        "name": name,
        "options": [],
        "query": {"query": expr, "refId": "PrometheusVariableQueryEditor-VariableQuery"},
        "refresh": 2,
        "regex": "",
        "skipUrlSync": False,
        "sort": 1,
        "type": "query",
    }


DRAINS = [
    variable("job", "Job", "label_values(fleetdrain_build_info, job)"),
    variable("drain", "Drain", 'label_values(fleetdrain_build_info{job=~"$job"}, instance)'),
]

# What counts a lost line, on every way by which one can be lost: once for each queue and sink that misses it, so these are copies.
# Of the spool only what was damaged: what goes by age or for want of room has been kept for as long as it was to be, and who had
# still to read it counts it. This app's own logs, which a source leaves out lest they go round in a circle, are none of it.
LOST = [
    "fleetdrain_lines_rejected_total{}",
    "fleetdrain_queue_lines_dropped_total{}",
    "fleetdrain_sink_lines_dropped_total{}",
    'fleetdrain_spool_lines_dropped_total{,reason="corrupt"}',
    'fleetdrain_source_lines_dropped_total{,reason!="own_app"}',
]


def lost(function, range_):
    """What was lost on every way, in one number; a way that a drain does not have counts 0."""
    return " + ".join(f"(sum({function}({counter}[{range_}])) or vector(0))" for counter in LOST)


def dropped(by, chosen):
    """What machines' queues gave up in the time shown.

    increase() does not see what a series begins with. That is counted too, where the series is new in that time and so is its machine:
    all that such a machine ever lost is of that time. A machine that was there before, and comes among those with series of their
    own or before another Prometheus, begins with what it lost in all its life, and that is left out. A machine that has moved to
    another app or region within the time in which it came is counted in both."""
    counter = f"fleetdrain_machine_dropped_total{chosen}"
    is_new = f"last_over_time(fleetdrain_machine_first_seen_timestamp_seconds{chosen}[$__range]) > time() - $__range_s"
    first = f"(min_over_time({counter}[$__range]) unless last_over_time({counter}[$__range] offset $__range)) and ({is_new})"
    parts = " or ".join(f'label_replace({part}, "part", "{name}", "", "")'
                        for part, name in ((f"increase({counter}[$__range])", "grown"), (first, "first")))
    return f"sum{by} ({parts})"


# Of drains that were started in the time shown.
STARTED = "and on (job, instance) (process_start_time_seconds{} > time() - $__range_s)"


def quantile(at, family, by=""):
    return f"histogram_quantile({at}, sum by (le{by}) (rate({family}_bucket{{}}[$__rate_interval])))"


def overview():
    golden = [
        stat("Lines", "Records received in bodies that were taken, a second.", "cps", "sum(rate(fleetdrain_lines_received_total{}[$__rate_interval]))"),
        stat("Refused", "Bodies answered 4xx or 5xx, a second. Nothing of them was taken. Senders repeat after 408, 429 and 503, and drop for good after any other 4xx.", "reqps",
             "sum(rate(fleetdrain_bodies_refused_total{}[$__rate_interval]))", steps((1e-9, YELLOW), (1, RED))),
        stat("Lost", "Copies of lines lost in the time shown, on every way. The ledger below says where.", "short", lost("increase", "$__range"), LOSS),
        stat("Latency p99", "From received to taken by a queue's reader: 99 % are faster.", "s",
             quantile(0.99, "fleetdrain_delivery_latency_seconds"), steps((1, YELLOW), (10, RED))),
        stat("Budget", "The fullest drain's byte budget. At 100 % senders get 503.", "percentunit",
             "max(fleetdrain_memory_used_bytes{} / fleetdrain_memory_budget_bytes{})", steps((0.8, YELLOW), (0.95, RED))),
        stat("Oldest entry", "How long the oldest entry that is queued or unsent has waited.", "s",
             "max(fleetdrain_oldest_entry_age_seconds{})", steps((60, YELLOW), (300, RED))),
        series("Lines by fate", "Accepted, filtered, unrouted and rejected add up to what was received.", "cps",
               query("sum(rate(fleetdrain_lines_accepted_total{}[$__rate_interval]))", "accepted"),
               query("sum(rate(fleetdrain_lines_filtered_total{}[$__rate_interval]))", "filtered"),
               query("sum(rate(fleetdrain_lines_unrouted_total{}[$__rate_interval]))", "unrouted"),
               query("sum(rate(fleetdrain_lines_rejected_total{}[$__rate_interval]))", "rejected"), stack=True),
        series("Refused bodies by reason", "queue_full, memory, spool and jetstream: no room here. shutting_down: this drain ends. too_slow: the sender or the network."
               " Senders repeat these. unauthorized, bad_request, too_large and unsupported_encoding are the sender's, which drops them for good.", "reqps",
               query("sum by (reason) (rate(fleetdrain_bodies_refused_total{}[$__rate_interval]))", "{{reason}}"), stack=True),
        series("Delivery latency", "From received to taken by a queue's reader.", "s",
               query(quantile(0.5, "fleetdrain_delivery_latency_seconds"), "p50"),
               query(quantile(0.99, "fleetdrain_delivery_latency_seconds"), "p99")),
        series("Requests by status", "All requests to the ingest listener.", "reqps",
               query('sum by (code) (rate(fleetdrain_http_requests_total{,listener="ingest"}[$__rate_interval])) > 0', "{{code}}")),
        series("Bytes", "Bodies as received, and decoded.", "Bps",
               query("sum(rate(fleetdrain_wire_bytes_total{}[$__rate_interval]))", "received"),
               query("sum(rate(fleetdrain_body_bytes_total{}[$__rate_interval]))", "decoded")),
        heat("Request duration", "From a request's head to the head of its answer, at the ingest listener.",
             'sum by (le) (increase(fleetdrain_http_request_duration_seconds_bucket{,listener="ingest"}[$__rate_interval]))'),
    ]
    ledger = [
        stat("Lost, in all", "The sum of the five beside it, in the time shown. These are copies: a line that two queues and a sink give up counts three times.", "short", lost("increase", "$__range"), LOSS),
        stat("Rejected", "Records that are none of a machine. /api/v1/rejected shows the last 100 of them.", "short",
             "sum(increase(fleetdrain_lines_rejected_total{}[$__range]))", LOSS),
        stat("Dropped by queues", "Lines that queues gave up.", "short", "sum(increase(fleetdrain_queue_lines_dropped_total{}[$__range]))", LOSS),
        stat("Dropped by sinks", "Lines that sinks gave up.", "short", "sum(increase(fleetdrain_sink_lines_dropped_total{}[$__range])) or vector(0)", LOSS),
        stat("Damaged in the spool", "Lines of damaged places in the spool. What goes from it by age or for want of room is no loss for itself: see Spool's flow.", "short",
             'sum(increase(fleetdrain_spool_lines_dropped_total{,reason="corrupt"}[$__range]))', LOSS),
        stat("Dropped by sources", "Lines that a source lost before the ledger; not this app's own, which are left out on purpose.", "short",
             'sum(increase(fleetdrain_source_lines_dropped_total{,reason!="own_app"}[$__range])) or vector(0)', LOSS),
        series("Losses by way and reason", "Each way by which lines are lost, copies a second.", "cps",
               query("sum by (reason) (rate(fleetdrain_lines_rejected_total{}[$__rate_interval]))", "rejected: {{reason}}"),
               query("sum by (reason) (rate(fleetdrain_queue_lines_dropped_total{}[$__rate_interval]))", "queue: {{reason}}"),
               query("sum by (sink, reason) (rate(fleetdrain_sink_lines_dropped_total{}[$__rate_interval]))", "sink {{sink}}: {{reason}}"),
               query('sum by (reason) (rate(fleetdrain_spool_lines_dropped_total{,reason="corrupt"}[$__rate_interval]))', "spool: {{reason}}"),
               query('sum by (source, reason) (rate(fleetdrain_source_lines_dropped_total{,reason!="own_app"}[$__rate_interval]))', "source {{source}}: {{reason}}"),
               stack=True, width=12),
        series("Ledger out of balance", "What neither fate nor place explains: 0 at every quiet moment. A scrape in the middle of a body may show a few, on either side of 0.", "short",
               query("sum(fleetdrain_lines_received_total{}) - sum(fleetdrain_lines_accepted_total{}) - sum(fleetdrain_lines_filtered_total{})"
                     " - sum(fleetdrain_lines_unrouted_total{}) - sum(fleetdrain_lines_rejected_total{})", "records"),
               query("sum(fleetdrain_queue_lines_in_total{}) - sum(fleetdrain_queue_lines_delivered_total{})"
                     " - sum(fleetdrain_queue_lines_dropped_total{}) - sum(fleetdrain_queue_lines{})", "queues"),
               query("sum(fleetdrain_spool_lines_in_total{}) - sum(fleetdrain_spool_lines_released_total{})"
                     " - sum(fleetdrain_spool_lines_dropped_total{}) - sum(fleetdrain_spool_lines{})", "spool"),
               query("sum(fleetdrain_sink_lines_in_total{}) - sum(fleetdrain_sink_lines_delivered_total{})"
                     " - sum(fleetdrain_sink_lines_dropped_total{}) - sum(fleetdrain_sink_lines_in_flight{})", "sinks"), width=12, signed=True),
        stat("Unclean stops", "Drains that were started in the time shown behind a process that did not stop by itself and had acknowledged lines in memory alone."
             " It is known where a directory keeps the loss journal (journal.dir).", "short", f"sum(fleetdrain_unclean_stop{{}} {STARTED}) or vector(0)", LOSS, width=12),
        stat("In memory at an unclean stop", "Acknowledged lines that nobody had taken about a second before: what these stops may have cost, but for that second's."
             " In none of the losses above.", "short", f"sum(fleetdrain_unclean_stop_lines{{}} {STARTED}) or vector(0)", LOSS, width=12),
    ]
    queues = [
        series("Queued lines", "Lines in queues, what is left to catch up included.", "short", query("sum(fleetdrain_queue_lines{})", "lines")),
        series("Queues' flow", "Offered to queues, and taken by their readers.", "cps",
               query("sum(rate(fleetdrain_queue_lines_in_total{}[$__rate_interval]))", "in"),
               query("sum(rate(fleetdrain_queue_lines_delivered_total{}[$__rate_interval]))", "delivered")),
        series("Memory", "Bytes of the budget in use, what queues have of it, and what is resident.", "bytes",
               query("sum(fleetdrain_memory_budget_bytes{})", "budget"),
               query("sum(fleetdrain_memory_used_bytes{})", "used"),
               query("sum(fleetdrain_queue_bytes{})", "queues"),
               query("sum(process_resident_memory_bytes{})", "resident")),
        series("History", "How far the history reaches back: the time a reader may be away without missing lines, where there is no spool.", "s",
               query("min(fleetdrain_history_seconds{})", "shortest")),
        series("Machines", "Machines in the table, and those with a queue.", "short",
               query("sum(fleetdrain_machines{})", "known"), query("sum(fleetdrain_subscriptions{})", "subscribed"),
               query("sum(fleetdrain_viewers{})", "logs and tails")),
        series("Lag of logs", "From a record's own timestamp to its receipt: late here means late before us.", "s",
               query(quantile(0.5, "fleetdrain_log_lag_seconds"), "p50"), query(quantile(0.99, "fleetdrain_log_lag_seconds"), "p99")),
        series("Skipped by viewers", "Lines that logs and tails came too late for; each was told.", "cps",
               query("sum(rate(fleetdrain_viewer_skipped_lines_total{}[$__rate_interval]))", "skipped")),
        series("Processor", "User and system time: 1 is one core.", "short",
               query("sum by (instance) (rate(process_cpu_seconds_total{}[$__rate_interval]))", "{{instance}}")),
        series("Descriptors", "Open file descriptors, in parts of their bound.", "percentunit",
               query("max by (instance) (process_open_fds{} / process_max_fds{})", "{{instance}}"), thresholds=steps((0.9, RED))),
    ]
    spool = [
        series("Spool", "Bytes on the disk, those that not every sink has, and the bound on both: spool.bytes_max, or what the volume has room for if that is less.", "bytes",
               query("sum(fleetdrain_spool_budget_bytes{})", "bound"),
               query("sum(fleetdrain_spool_bytes{})", "on the disk"), query("sum(fleetdrain_spool_unsent_bytes{})", "unsent")),
        series("Spool's flow", "Lines written; released, when every sink had them; gone for age (expired: spool.keep) or for want of room (full: spool.bytes_max, or the disk),"
               " which is no loss for itself: the queues and sinks that had still to read them count them as dropped; and damaged, which is one.", "cps",
               query("sum(rate(fleetdrain_spool_lines_in_total{}[$__rate_interval]))", "in"),
               query("sum(rate(fleetdrain_spool_lines_released_total{}[$__rate_interval]))", "released"),
               query('sum by (reason) (rate(fleetdrain_spool_lines_dropped_total{,reason=~"expired|full"}[$__rate_interval]))', "gone: {{reason}}"),
               query('sum(rate(fleetdrain_spool_lines_dropped_total{,reason="corrupt"}[$__rate_interval]))', "damaged")),
        series("Sync", "How long a sync takes: part of the time that a sender waits for `disk`.", "s",
               query(quantile(0.5, "fleetdrain_spool_fsync_seconds"), "p50"), query(quantile(0.99, "fleetdrain_spool_fsync_seconds"), "p99")),
        stat("Oldest batch", "How long ago the oldest batch in the spool was received.", "s", "max(fleetdrain_spool_oldest_age_seconds{})", width=6),
        stat("Lines", "Lines in the spool.", "short", "sum(fleetdrain_spool_lines{})", width=6),
        stat("Segments", "Files that the spool is made of.", "short", "sum(fleetdrain_spool_segments{})", width=6),
        stat("Damaged places", "Damaged places found in the spool: each is a batch or more.", "short", "sum(fleetdrain_spool_corrupt_records_total{})", LOSS, width=6),
    ]
    sinks = [
        series("Delivered", "Lines that each sink's far side has acknowledged.", "cps",
               query("sum by (sink) (rate(fleetdrain_sink_lines_delivered_total{}[$__rate_interval]))", "{{sink}}")),
        series("Lag", "The age of the oldest line that a sink has not delivered.", "s",
               query("max by (sink) (fleetdrain_sink_lag_seconds{})", "{{sink}}"), thresholds=steps((300, RED))),
        series("In flight", "Handed to the sink and not yet delivered, spooled and unsent included.", "short",
               query("sum by (sink) (fleetdrain_sink_lines_in_flight{})", "{{sink}}")),
        series("Retries", "Deliveries tried again.", "cps", query("sum by (sink) (rate(fleetdrain_sink_retries_total{}[$__rate_interval]))", "{{sink}}")),
        series("Since the last success", "How long ago each sink last delivered.", "s",
               query("time() - max by (sink) (fleetdrain_sink_last_success_timestamp_seconds{} > 0)", "{{sink}}")),
        series("In, filtered, dropped", "What came to each sink, what its filter kept from it, what it gave up.", "cps",
               query("sum by (sink) (rate(fleetdrain_sink_lines_in_total{}[$__rate_interval]))", "{{sink}}: in"),
               query("sum by (sink) (rate(fleetdrain_sink_lines_filtered_total{}[$__rate_interval]))", "{{sink}}: filtered"),
               query("sum by (sink, reason) (rate(fleetdrain_sink_lines_dropped_total{}[$__rate_interval]))", "{{sink}}: {{reason}}")),
    ]
    fly = [
        stat("Connected", "Whether every drain that runs the source hears Fly's NATS; no data where none does.", "bool_yes_no",
             "min(fleetdrain_fly_connected{} and fleetdrain_fly_enabled{} == 1)",
             [{"color": RED, "value": None}, {"color": GREEN, "value": 1}], width=6),
        stat("Canaries missing", "Lines that the drain logged itself and that did not come back, in the time shown. Less than 0: some came that were logged before.", "short",
             "sum(increase(fleetdrain_fly_canary_sent_total{}[$__range])) - sum(increase(fleetdrain_fly_canary_received_total{}[$__range]))", steps((2, RED)), width=6, signed=True),
        stat("Reconnects", "In the time shown.", "short", "sum(increase(fleetdrain_fly_reconnects_total{}[$__range]))", steps((1, YELLOW)), width=6),
        stat("Slow consumer", "Times that NATS threw away what the drain did not take in time.", "short",
             "sum(increase(fleetdrain_fly_slow_consumers_total{}[$__range]))", LOSS, width=6),
        series("Canary's way", "From a canary's writing to its coming back: what any app's line takes to get here.", "s",
               query("max by (instance) (fleetdrain_fly_canary_lag_seconds{})", "{{instance}}"), width=12),
        series("Dropped by sources", "own_app is this app's own logs, not taken lest they go round; overflow is a loss.", "cps",
               query("sum by (source, reason) (rate(fleetdrain_source_lines_dropped_total{}[$__rate_interval]))", "{{source}}: {{reason}}"), width=12),
    ]
    rows = [
        ("Golden signals", golden),
        ("Loss ledger", ledger),
        ("Queues and memory", queues),
        ("Spool (0 or empty without --spool)", spool),
        ("Sinks (empty without sinks)", sinks),
        ("Fly source and canary (0 or empty without --fly)", fly),
    ]
    return board("overview", rows, DRAINS, "Is all well: traffic, refusals, losses, latency, room.")


ONE = '{,machine=~"$machine"}'


def machine():
    one = lambda name: f"sum(rate(fleetdrain_machine_{name}_total{ONE}[$__rate_interval]))"
    now = [
        stat("Lines", "Lines of this machine, a second.", "cps", one("lines")),
        stat("Bytes", "Bytes of its records, a second.", "Bps", one("bytes")),
        stat("Queued", "Lines in its queue, what is left to catch up included.", "short", f"sum(fleetdrain_machine_queue_lines{ONE})"),
        stat("Dropped", "Lines that its queue gave up, in the time shown.", "short",
             dropped("", ONE), LOSS),
        stat("Latency p99", "From received to taken by its queue's reader.", "s",
             f'max(fleetdrain_machine_delivery_latency_seconds{{,machine=~"$machine",quantile="0.99"}})', steps((1, YELLOW), (10, RED))),
        stat("Machines without series", "Machines that are too quiet for series of their own: if this one is missing here, ask /api/v1/machines.", "short",
             "sum(fleetdrain_machine_series_omitted{})"),
    ]
    by = "machine, source_app, source_region"
    legend = "{{machine}} {{source_app}} {{source_region}}"
    then = [
        series("Lines", "Lines of this machine.", "cps", query(f"sum by ({by}) (rate(fleetdrain_machine_lines_total{ONE}[$__rate_interval]))", legend), width=12),
        series("Bytes", "Bytes of its records.", "Bps", query(f"sum by ({by}) (rate(fleetdrain_machine_bytes_total{ONE}[$__rate_interval]))", legend), width=12),
        series("Delivery latency", "From received to taken by its queue's reader; nothing while nobody reads.", "s",
               query(f"max by (machine, quantile) (fleetdrain_machine_delivery_latency_seconds{ONE})", "{{machine}} p{{quantile}}"), width=12),
        series("Queue", "Lines in its queue, what is left to catch up included.", "short",
               query(f"sum by (machine) (fleetdrain_machine_queue_lines{ONE})", "{{machine}}"), width=12),
        series("Lag", "How long the oldest line in its queue has waited: it grows while nobody reads.", "s",
               query(f"max by (machine) (fleetdrain_machine_lag_seconds{ONE})", "{{machine}}"), thresholds=steps((300, RED)), width=12),
        series("Drops", "Lines that its queue gave up. `fleetdrain losses -m MACHINE` says when and why.", "cps",
               query(f"sum by (machine) (rate(fleetdrain_machine_dropped_total{ONE}[$__rate_interval]))", "{{machine}}"), thresholds=LOSS, width=12),
    ]
    rows = [("Now", now), ("Over time", then)]
    chosen = variable("machine", "Machine", "label_values(fleetdrain_machine_lines_total{}, machine)", many=False)
    return board("machine", rows, DRAINS + [chosen], "One machine: its rate, how late its reader is, what it lost.")


def fleet():
    by = "machine, source_app, source_region"
    # A machine's id opens its board.
    opens = {
        "matcher": {"id": "byName", "options": "machine"},
        "properties": [{
            "id": "links",
            "value": [{"title": "This machine", "url": "/d/fleetdrain-machine?var-machine=${__value.raw:percentencode}&${datasource:queryparam}&${__url_time_range}"}],
        }],
    }
    columns = [("machine", "machine"), ("source_app", "app"), ("source_region", "region")]
    chosen = '{,source_app=~"$app",source_region=~"$region"}'
    top = lambda title, what, unit, expr, thresholds=None: table(
        title, what, unit, f"topk($top, {expr})", columns, thresholds, width=12, height=10, overrides=[opens])
    tables = [
        top("Lines", "Machines with most lines a second.", "cps", f"sum by ({by}) (rate(fleetdrain_machine_lines_total{chosen}[$__rate_interval]))"),
        top("Bytes", "Machines with most bytes a second.", "Bps", f"sum by ({by}) (rate(fleetdrain_machine_bytes_total{chosen}[$__rate_interval]))"),
        top("Drops", "Machines whose queues gave most up in the time shown.", "short", dropped(f" by ({by})", chosen), LOSS),
        top("Lag", "Machines with the oldest line in their queue, read or not; of the machines with series of their own: `fleetdrain machines --sort lag` knows all.", "s",
            f"max by ({by}) (fleetdrain_machine_lag_seconds{chosen})", steps((60, YELLOW), (300, RED))),
        top("Queued", "Machines with most lines in their queues.", "short", f"sum by ({by}) (fleetdrain_machine_queue_lines{chosen})"),
        bars("Share of the loudest", "What part of all lines the machines with series of their own send.", "percentunit",
             query(f"sum(rate(fleetdrain_machine_lines_total{{}}[$__rate_interval])) / sum(rate(fleetdrain_lines_received_total{{}}[$__rate_interval]))", "lines"),
             width=6, height=10),
        stat("Without series", "Machines that are too quiet for series of their own, and so are in none of these tables: /api/v1/machines has all.", "short",
             "sum(fleetdrain_machine_series_omitted{})", width=6),
    ]
    groups = [
        series("Lines by app", "The machines with series of their own, by app.", "cps",
               query(f"topk($top, sum by (source_app) (rate(fleetdrain_machine_lines_total{chosen}[$__rate_interval])))", "{{source_app}}"), stack=True, width=12),
        series("Lines by region", "The machines with series of their own, by region.", "cps",
               query(f"sum by (source_region) (rate(fleetdrain_machine_lines_total{chosen}[$__rate_interval]))", "{{source_region}}"), stack=True, width=12),
        series("Drops by app", "Lines that queues gave up, by app.", "cps",
               query(f"topk($top, sum by (source_app) (rate(fleetdrain_machine_dropped_total{chosen}[$__rate_interval])))", "{{source_app}}"), width=12),
        series("Bytes by app", "Bytes of records, by app.", "Bps",
               query(f"topk($top, sum by (source_app) (rate(fleetdrain_machine_bytes_total{chosen}[$__rate_interval])))", "{{source_app}}"), stack=True, width=12),
    ]
    how_many = {
        "current": {"selected": True, "text": "10", "value": "10"},
        "hide": 0,
        "includeAll": False,
        "label": "Top",
        "multi": False,
        "name": "top",
        "options": [{"selected": number == "10", "text": number, "value": number} for number in ("5", "10", "25", "50")],
        "query": "5,10,25,50",
        "skipUrlSync": False,
        "type": "custom",
    }
    variables = DRAINS + [
        variable("app", "App", "label_values(fleetdrain_machine_lines_total{}, source_app)"),
        variable("region", "Region", "label_values(fleetdrain_machine_lines_total{}, source_region)"),
        how_many,
    ]
    rows = [("Machines", tables), ("By app and region", groups)]
    return board("fleet", rows, variables, "The loudest, the latest and the losing machines of the fleet.")


def main():
    stale = []
    for name, make in (("overview", overview), ("machine", machine), ("fleet", fleet)):
        path = HERE / f"{name}.json"
        text = json.dumps(make(), indent=2, ensure_ascii=False) + "\n"
        if "--check" not in sys.argv[1:]:
            path.write_text(text)
        elif not path.exists() or path.read_text() != text:
            stale.append(path.name)
    if stale:
        sys.exit(f"not what dashboards/generate.py writes: {', '.join(stale)}")


if __name__ == "__main__":
    main()
