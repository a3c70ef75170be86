SELECT name AS __text, participant AS __value FROM participant_list ORDER BY position
