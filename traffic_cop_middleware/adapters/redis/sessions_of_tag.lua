-- The valid sessions of a tag, oldest first, each with its `id`. What the index has beyond them is taken out of it.
local function sessions_of_tag(index, records, generation)
  local found = {}
  for _, id in ipairs(redis.call('ZRANGE', index, 0, -1)) do
    local known = session(records .. id, generation)
    if known then
      known.id = id
      found[#found + 1] = known
    else
      redis.call('ZREM', index, id)
    end
  end
  table.sort(found, function(a, b)
    if a.created == b.created then return a.id < b.id end
    return a.created < b.created
  end)
  return found
end
