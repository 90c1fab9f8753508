-- The library keeps what a user saves; the workspace forgets after seven days. Storage refuses deletion by SQL, so that the files of expired
-- assets are listed here and removed by the function clean-up.

-- Records the copy of a workspace asset in its owner's library. Returns the row, or the existing one; null if there is no such asset.
create function public.save_to_library(owner uuid, asset uuid, path text, thumbnail text) returns public.user_library
language plpgsql security definer set search_path = '' as $$
declare
  saved public.user_library;
begin
  insert into public.user_library (
    user_id, job_id, asset_id, asset_type, storage_path, thumbnail_path, content, file_size_bytes, mime_type, duration_seconds,
    generation_seed, width, height, original_prompt, model_used, generation_settings
  )
  select
    user_id, job_id, id, asset_type, path, thumbnail, content, file_size_bytes, mime_type, duration_seconds,
    generation_seed, width, height, original_prompt, model_used, generation_settings
  from public.workspace_assets where id = asset and user_id = owner
  on conflict (user_id, asset_id) do nothing;
  select * into saved from public.user_library where user_id = owner and asset_id = asset;
  return saved;
end $$;

-- Deletes the rows of expired assets. Returns their number.
create function public.delete_expired_assets() returns bigint
language sql security definer set search_path = '' as $$
  with deleted as (delete from public.workspace_assets where expires_at <= now() returning 1) select count(*) from deleted
$$;

-- Names of objects in workspace-temp that no asset needs: the files of expired assets, of deleted users and of jobs without a row.
create function public.expired_objects(most int) returns setof text
language sql stable security definer set search_path = '' as $$
  select name from storage.objects
  where bucket_id = 'workspace-temp' and created_at <= now() - interval '7 days'
    and not exists (
      select from public.workspace_assets as asset
      where asset.job_id::text = split_part(name, '/', 2) and asset.user_id::text = split_part(name, '/', 1) and asset.expires_at > now()
    )
  order by created_at limit most
$$;

revoke execute on function public.save_to_library, public.delete_expired_assets, public.expired_objects from public, anon, authenticated;
grant execute on function public.save_to_library, public.delete_expired_assets, public.expired_objects to service_role;
