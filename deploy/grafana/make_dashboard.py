#!/usr/bin/env python3
"""Writes deploy/grafana/dashboards/lorad.json from the panels below.

The JSON is what Grafana reads; this file is what people read and change. `--check` fails when the
two differ. Every query is run against a live lorad by tests/e2e/prometheus_test.py.
"""
import json
import pathlib
import sys

OUTPUT = pathlib.Path(__file__).parent / "dashboards" / "lorad.json"
WHERE = 'instance=~"$instance"'


def rate(metric, labels="", by=""):
    selector = ",".join(part for part in (labels, WHERE) if part)
    return f"sum by ({by}) (rate({metric}{{{selector}}}[$__rate_interval]))"


def quantile(q, metric, by=""):
    keys = ",".join(part for part in ("le", by) if part)
    return f"histogram_quantile({q}, sum by ({keys}) (rate({metric}_bucket{{{WHERE}}}[$__rate_interval])))"


def gauge(metric, labels=""):
    return f"{metric}{{{','.join(part for part in (labels, WHERE) if part)}}}"


# row title -> panels: (title, unit, [(query, legend)], what it tells)
ROWS = {
    "Overview": [
        ("Ready", "bool_yes_no", [(gauge("lorad_ready"), "{{service}}")],
         "Whether each service answers, as grpc.health.v1 tells it."),
        ("Requests", "reqps", [(rate("lorad_grpc_requests_total", by="method"), "{{method}}")],
         "RPCs by method."),
        ("Errors", "reqps", [(rate("lorad_grpc_requests_total", 'code!="OK"', by="code"), "{{code}}")],
         "RPCs that ended with an error, by code."),
        ("RPC latency p99", "s", [(quantile(0.99, "lorad_grpc_request_duration_seconds", "method"), "{{method}}")],
         "Streams count until their end."),
    ],
    "Serving": [
        ("Time to first token", "s",
         [(quantile(q, "lorad_inference_time_to_first_token_seconds", "kind"), f"p{int(q * 100)} {{{{kind}}}}")
          for q in (0.5, 0.99)],
         "From the request's arrival to its first token, queueing included."),
        ("Inter-token latency", "s",
         [(quantile(q, "lorad_inference_inter_token_seconds", "kind"), f"p{int(q * 100)} {{{{kind}}}}")
          for q in (0.5, 0.99)],
         "Between two tokens of one stream."),
        ("Tokens", "short",
         [(rate("lorad_inference_prompt_tokens_total"), "prompt"), (rate("lorad_inference_generated_tokens_total"), "generated")],
         "Tokens per second in and out."),
        ("Requests in the engine", "short",
         [(gauge("lorad_inference_running_requests"), "running"), (gauge("lorad_inference_queue_requests"), "queued")],
         "What decodes now, and what waits."),
        ("KV cache", "short", [(f"sum by (state) ({gauge('lorad_kv_cache_blocks')})", "{{state}}")],
         "Pages of the KV cache; cached ones hold prompts of ended requests and are as good as free."),
        ("Prefix cache", "short",
         [(rate("lorad_prefix_cache_queries_total"), "prompt tokens"), (rate("lorad_prefix_cache_hits_total"), "of these known"),
          (rate("lorad_prefix_cache_evictions_total"), "given up")],
         "Tokens per second that prompts asked for, had in the cache, and that were given up for running requests."),
        ("Finished requests", "reqps", [(rate("lorad_inference_requests_total", by="finish_reason"), "{{finish_reason}}")],
         "By why they ended."),
    ],
    "Training": [
        ("Loss", "none", [(gauge("lorad_training_loss"), "train"), (gauge("lorad_training_eval_loss"), "eval"),
                          (gauge("lorad_job_forecast_eval_loss"), "final eval, {{bound}}")],
         "Mean over the target tokens of the last optimiser step; of the last evaluation; of the final one, forecast."),
        ("Learning rate", "sci", [(gauge("lorad_training_learning_rate"), "learning rate")], "Of the last step."),
        ("Gradient norm", "none", [(gauge("lorad_training_gradient_norm"), "before clipping")], "Of the last step."),
        ("Training tokens", "short", [(rate("lorad_training_tokens_total"), "tokens/s")], "Tokens trained per second."),
        ("Step time p50 and p99", "s",
         [(quantile(q, "lorad_training_step_seconds"), f"p{int(q * 100)}") for q in (0.5, 0.99)],
         "Of optimiser steps; time given to serving is not counted."),
        ("Training slices p50 and p99", "s",
         [(quantile(q, "lorad_training_slice_seconds", "phase"), f"p{int(q * 100)} {{{{phase}}}}") for q in (0.5, 0.99)],
         "Time on the device of one slice, between which requests are served."),
        ("Share of the device", "percentunit", [(gauge("lorad_training_share"), "training")],
         "What training took of the last 5 seconds."),
        ("Late tokens", "ops", [(rate("lorad_itl_budget_exceeded_total"), "passes")],
         "Decoding passes whose tokens came later than --itl_target_ms."),
        ("Jobs", "short", [(f"sum by (state) ({gauge('lorad_jobs')})", "{{state}}")], "By state."),
        ("Progress", "percentunit", [(gauge("lorad_training_progress_ratio"), "of the running job")],
         "Optimiser steps done over all."),
    ],
    "Adapters": [
        ("Adapters by tier", "short", [(f"sum by (tier) ({gauge('lorad_adapters_loaded')})", "{{tier}}")],
         "Where the registered adapters' weights are."),
        ("Loads", "ops", [(rate("lorad_adapter_loads_total", by="result"), "{{result}}")], "Reads onto the device."),
        ("Swaps and evictions", "ops",
         [(rate("lorad_adapter_swaps_total"), "alias moved"), (rate("lorad_adapter_evictions_total"), "evicted"),
          (rate("lorad_adapter_prefetches_total"), "prefetched")],
         "Aliases moved to another version; adapters dropped from the device for room; loads begun ahead of their request."),
        ("Load time p99", "s", [(quantile(0.99, "lorad_adapter_load_seconds", "source"), "{{source}}")],
         "From its source onto the device."),
    ],
    "Memory and process": [
        ("Device memory by tag", "bytes", [(f"sum by (use) ({gauge('lorad_memory_bytes')})", "{{use}}")],
         "Every byte belongs to a tagged arena; pinned is host memory that the device works on."),
        ("Resident memory", "bytes", [(gauge("process_resident_memory_bytes", 'job="lorad"'), "resident")], "Of the process."),
        ("State directory's disk", "bytes", [(gauge("lorad_storage_free_bytes"), "free")], "Where jobs and adapters are kept."),
        ("Build", "none", [(gauge("lorad_build_info"), "{{version}} {{revision}}")], "What runs."),
    ],
}


def panel(panel_id, title, unit, targets, description, x, y):
    datasource = {"type": "prometheus", "uid": "${datasource}"}
    return {
        "id": panel_id, "type": "timeseries", "title": title, "description": description,
        "datasource": datasource, "gridPos": {"h": 8, "w": 8, "x": x, "y": y},
        "fieldConfig": {"defaults": {"unit": unit, "min": 0 if unit != "none" else None}, "overrides": []},
        "options": {"legend": {"displayMode": "list", "placement": "bottom"}, "tooltip": {"mode": "multi"}},
        "targets": [{"refId": chr(ord("A") + i), "datasource": datasource, "expr": expr, "legendFormat": legend}
                    for i, (expr, legend) in enumerate(targets)],
    }


def dashboard():
    panels, y, panel_id = [], 0, 1
    for row, members in ROWS.items():
        panels.append({"id": panel_id, "type": "row", "title": row, "collapsed": False,
                       "gridPos": {"h": 1, "w": 24, "x": 0, "y": y}, "panels": []})
        panel_id, y = panel_id + 1, y + 1
        for i, member in enumerate(members):
            panels.append(panel(panel_id, *member, x=8 * (i % 3), y=y + 8 * (i // 3)))
            panel_id += 1
        y += 8 * ((len(members) + 2) // 3)
    return {
        "uid": "lorad", "title": "lorad", "tags": ["lorad"], "schemaVersion": 39, "version": 1,
        "editable": False, "refresh": "10s", "time": {"from": "now-1h", "to": "now"},
        "templating": {"list": [
            {"name": "datasource", "type": "datasource", "query": "prometheus", "label": "Data source"},
            {"name": "instance", "type": "query", "label": "Instance", "includeAll": True, "multi": True,
             "current": {"text": "All", "value": "$__all"}, "refresh": 2,
             "datasource": {"type": "prometheus", "uid": "${datasource}"},
             "query": {"query": "label_values(lorad_build_info, instance)", "refId": "instance"}},
        ]},
        "panels": panels,
    }


def main():
    text = json.dumps(dashboard(), indent=2) + "\n"
    if "--check" in sys.argv:
        if OUTPUT.read_text() != text:
            print(f"{OUTPUT} differs from make_dashboard.py: run deploy/grafana/make_dashboard.py")
            return 1
        return 0
    OUTPUT.write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
