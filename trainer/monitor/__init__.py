"""What a run says of itself while it works: records of machine and performance, and alerts (docs/monitoring.md).

`Monitor` (trainer.monitor.monitor) is told of all that happens, as a callback. Rules are plain classes without threads
or clocks (learning, pace, memory); `Alerts` holds them, and outlets deliver what they find in threads of their own.
"""
