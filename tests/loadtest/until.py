"""A second locustfile, for tests: a load ends when enough was answered, whatever the clock says."""

from collections import Counter

from locust import events, runners

runners.WORKER_REPORT_INTERVAL = 0.2  # seconds: a master knows of its workers' answers by these


@events.init_command_line_parser.add_listener
def add_option(parser):
    parser.add_argument("--until", help="names, or parts of them: three of each, of 100")


@events.init.add_listener
def watch(environment, runner, **_):
    """Let whoever has all answers end the load: not a worker."""
    if isinstance(runner, runners.WorkerRunner) or not environment.parsed_options.until:
        return
    wanted = environment.parsed_options.until.split(",")

    def look(**_):
        answered = Counter()
        for entry in runner.stats.entries.values():
            answered.update({name: entry.num_requests for name in wanted if name in entry.name})
        enough = runner.stats.total.num_requests >= 100  # of fewer no percentile is told
        if runner.shape_greenlet and enough and all(answered[name] >= 3 for name in wanted):
            runner.shape_greenlet.kill(block=False)  # as if the shape had ended

    events.request.add_listener(look)
    events.worker_report.add_listener(look)
