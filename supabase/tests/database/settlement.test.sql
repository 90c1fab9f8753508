-- The state machine of jobs, step by step. Sequences by chance are tested with the function job-callback.
begin;
select plan(22);

insert into auth.users (id) values ('00000000-0000-4000-8000-00000000000a');

create function pg_temp.new_job(number int, attempts int default 1) returns uuid language sql as $$
  insert into public.jobs (id, user_id, job_type, format, model_type, request, endpoint, deadline, attempts, runpod_id)
  values (
    ('00000000-0000-4000-8000-0000000000' || lpad(number::text, 2, '0'))::uuid, '00000000-0000-4000-8000-00000000000a', 'sdxl_image_fast',
    'image', 'sdxl', '{"prompt": "a heron"}', 'e1', now() + interval '1 hour', attempts, 'run-' || attempts
  )
  returning id
$$;
create function pg_temp.settle(job uuid, status text, runpod_id text, extra jsonb default '{}', assets jsonb default '[]') returns text
language sql as $$
  select public.settle_job(jsonb_build_object(
    'job_id', job, 'status', status, 'assets', assets, 'error_message', case status when 'failed' then 'It failed.' end,
    'metadata', jsonb_build_object('runpod_id', runpod_id) || extra
  )) ->> 'result'
$$;
create function pg_temp.image(job uuid, index_ int) returns jsonb language sql as $$
  select jsonb_build_object(
    'type', 'image', 'asset_index', index_, 'temp_storage_path', '00000000-0000-4000-8000-00000000000a/' || job || '/' || index_ || '.png',
    'generation_seed', 2147483647, 'mime_type', 'image/png', 'file_size_bytes', 3, 'metadata', '{"width": 64, "height": 48}'::jsonb
  )
$$;
create function pg_temp.state(job uuid) returns text language sql as $$
  select concat_ws(' ', status, attempts, runpod_id, error_code) from public.jobs where id = job
$$;

select pg_temp.new_job(number) from generate_series(1, 9) as number;
\set job1 '''00000000-0000-4000-8000-000000000001'''
\set job2 '''00000000-0000-4000-8000-000000000002'''
\set job3 '''00000000-0000-4000-8000-000000000003'''
\set job4 '''00000000-0000-4000-8000-000000000004'''
\set job5 '''00000000-0000-4000-8000-000000000005'''

select is(pg_temp.settle(:job1, 'processing', 'run-1'), 'processing', 'a started job is processing');
select isnt(started_at, null, 'and has its time') from public.jobs where id = :job1;
select is(
  pg_temp.settle(:job1, 'completed', 'run-1', '{"model_used": "m"}', jsonb_build_array(pg_temp.image(:job1, 0), pg_temp.image(:job1, 1))),
  'completed', 'a result completes it'
);
select is(count(*), 2::bigint, 'with every asset') from public.workspace_assets
  where job_id = :job1 and generation_seed = 2147483647 and width = 64 and height = 48 and model_used = 'm' and expires_at > now();
select is(pg_temp.settle(:job1, 'completed', 'run-1'), 'final', 'a repetition changes nothing');
select is(pg_temp.settle(:job1, 'failed', 'run-1'), 'final', 'a failure after the result changes nothing');
select is(pg_temp.settle(:job1, 'processing', 'run-1'), 'final', 'a late start changes nothing');
select is(pg_temp.state(:job1), 'completed 1 run-1', 'completed is final');

select is(pg_temp.settle(:job2, 'failed', 'run-1', '{"error_code": "OOM_ERROR", "retryable": true}'), 'queued', 'a retryable failure queues again');
select is(pg_temp.state(:job2), 'queued 1 OOM_ERROR', 'without an attempt until it is due');
select ok(next_attempt_at > now(), 'after a delay') from public.jobs where id = :job2;
update public.jobs set next_attempt_at = now() where id = :job2;
select is(count(*), 1::bigint, 'then it is claimed') from public.claim_due_jobs(10);
select is(public.record_submission(:job2, 'e1', 'run-2') ->> 'status', 'queued', 'and submitted');
select is(pg_temp.settle(:job2, 'failed', 'run-1'), 'superseded', 'a failure of the first attempt does not fail the second');
select is(pg_temp.settle(:job2, 'completed', 'run-1'), 'completed', 'but its result counts');

select is(pg_temp.settle(:job3, 'failed', 'run-1', '{"error_code": "UPLOAD_ERROR", "retryable": false}'), 'failed', 'other failures end it');
select is(pg_temp.settle(:job3, 'completed', 'run-1'), 'completed', 'until its assets are stored after all');
select is(pg_temp.state(:job3), 'completed 1 run-1', 'which clears the error');

select throws_ok(
  format('select pg_temp.settle(%L, %L, %L, %L, %L)', :job4, 'completed', 'run-1', '{}',
    jsonb_build_array(pg_temp.image(:job4, 0), pg_temp.image(:job5, 1))),
  '22023', null, 'an asset in another folder is refused'
);
select is(pg_temp.state(:job4), 'queued 1 run-1', 'with the whole payload');
select is(public.cancel_job('00000000-0000-4000-8000-00000000000a', :job5) ->> 'status', 'cancelled', 'a cancelled job');
select is(pg_temp.settle(:job5, 'completed', 'run-1'), 'final', 'stays cancelled');

select * from finish();
rollback;
