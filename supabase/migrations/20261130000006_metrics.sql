-- Metrics for the operator.

-- The last 30 days by type of job. Seconds are of processing; memory is in MB; `ratio` is actual by expected time.
create view public.performance_metrics with (security_invoker = true) as
with completed as (
  select
    job_type, expected_seconds, (result ->> 'processing_time')::numeric as actual_seconds,
    (result ->> 'vram_used')::numeric as vram_used, nullif((result ->> 'vram_total')::numeric, 0) as vram_total
  from public.jobs where status = 'completed' and completed_at > now() - interval '30 days'
)
select
  job_type, count(*) as jobs,
  round(avg(expected_seconds), 1) as expected_seconds,
  round(avg(actual_seconds), 1) as actual_seconds,
  round(percentile_cont(0.95) within group (order by actual_seconds)::numeric, 1) as actual_seconds_p95,
  round(avg(actual_seconds / nullif(expected_seconds, 0)), 2) as ratio,
  round(avg(vram_used)) as vram_used,
  round(max(vram_total)) as vram_total,
  round(avg(vram_used / vram_total), 3) as vram_utilisation
from completed group by job_type;

-- Now, the last hour and the last day, by endpoint.
create view public.queue_metrics with (security_invoker = true) as
select
  endpoint,
  count(*) filter (where status = 'queued') as queue_length,
  count(*) filter (where status = 'processing') as processing,
  round(extract(epoch from avg(started_at - created_at) filter (where started_at is not null)), 1) as average_wait_seconds,
  count(*) filter (where status = 'completed' and completed_at > now() - interval '1 hour') as jobs_per_hour,
  round(
    count(*) filter (where status = 'failed')::numeric / nullif(count(*) filter (where status in ('completed', 'failed')), 0), 3
  ) as error_rate
from public.jobs
where status in ('queued', 'processing') or created_at > now() - interval '1 day'
group by endpoint;

grant select on public.performance_metrics, public.queue_metrics to service_role;
