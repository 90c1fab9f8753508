-- Buckets. Workers write with the service key; the first segment of an object's name is its owner's id.

insert into storage.buckets (id, name, public, file_size_limit, allowed_mime_types)
values
  ('workspace-temp', 'workspace-temp', false, 268435456,
   array['image/png', 'image/jpeg', 'image/webp', 'image/gif', 'video/mp4', 'video/webm', 'application/json']),
  ('user-library', 'user-library', false, 268435456,
   array['image/png', 'image/jpeg', 'image/webp', 'image/gif', 'video/mp4', 'video/webm'])
on conflict (id) do update
set public = excluded.public, file_size_limit = excluded.file_size_limit, allowed_mime_types = excluded.allowed_mime_types;

create policy "owners read their assets" on storage.objects for select to authenticated
  using (bucket_id in ('workspace-temp', 'user-library') and (storage.foldername(name))[1] = (select auth.uid())::text);
create policy "owners upload to their library" on storage.objects for insert to authenticated
  with check (bucket_id = 'user-library' and (storage.foldername(name))[1] = (select auth.uid())::text);
create policy "owners delete from their library" on storage.objects for delete to authenticated
  using (bucket_id = 'user-library' and (storage.foldername(name))[1] = (select auth.uid())::text);
